"""Config: YAML files read into typed models; a mistake names file, line and key."""

import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError

from mlops_loop.base.errors import Failure

Model = TypeVar("Model", bound=BaseModel)
Document = TypeVar("Document")
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
# LibYAML's, if PyYAML was built with it: a third of the time, and each command reads several files.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, model: type[Model], context: object = None) -> Model:
    """Return the checked content of a YAML file; errors name the file, the line and the key.

    The model's validators find `context` in their info: what the content is checked against.
    """
    return parse_yaml(path.read_text(encoding="utf-8"), str(path), model, context)


def parse_yaml(text: str, name: str, model: type[Model], context: object = None) -> Model:
    """Return the checked content of a YAML text that is called `name` in errors."""
    try:
        loader = LOADER(text)
        tree = loader.get_single_node()
        for twice in repeated_keys(tree):  # YAML would take the last without a word
            line = twice.start_mark.line + 1
            raise Failure(f"{name}, line {line}: the key {twice.value!r} is there twice")
        content = loader.construct_document(tree) if tree else None
        return model.model_validate(content, context=context)
    except yaml.YAMLError as error:
        raise Failure(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = first["loc"] or first.get("ctx", {}).get("place", ())
        key = ".".join(map(str, place)) or "top level"
        reason = first["msg"].removeprefix("Value error, ")
        raise Failure(f"{name}, line {line_of(tree, place)}: {key}: {reason}") from None
    except ValueError as error:  # such as the date 2013-13-45
        raise Failure(f"{name} is not valid YAML: {error}") from None


def at_key(key: str, reason: str) -> PydanticCustomError:
    """Return the error for a validator of the whole document to raise about one of its keys."""
    return PydanticCustomError("at_key", "{reason}", {"place": (key,), "reason": reason})


def repeated_keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield the keys that stood in the same mapping before."""
    if not isinstance(node, yaml.CollectionNode):
        return
    seen = set[str]()
    for child in node.value:
        key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
        if key and str(key.value) in seen:
            yield key
        seen.add(str(key and key.value))
        yield from repeated_keys(value)


def line_of(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """Return the line on which the key at `place` stands, or else the nearest one around it."""
    mark = node.start_mark.line if node else 0
    for part in place:
        found = []
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = [(item, item) for item in node.value[part : part + 1]]
        for key, value in found:  # none if the key is missing, or names one of several forms
            mark = key.start_mark.line
            node = value
    return mark + 1


def edited(path: Path, change: Callable[[Document], None]) -> str:
    """Return the text of a YAML file after a change; comments stay."""
    from ruamel.yaml import YAML  # here, because the server has none

    editor = YAML()
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.width = 110
    editor.preserve_quotes = True
    # As PyYAML reads it, which holds to YAML 1.1: null by name, and a point in every float.
    tag = "tag:yaml.org,2002:"
    add = editor.representer.add_representer
    add(type(None), lambda to, _: to.represent_scalar(f"{tag}null", "null"))
    add(float, lambda to, x: to.represent_scalar(f"{tag}float", yaml.safe_dump(x).split()[0]))
    content = editor.load(path.read_text(encoding="utf-8"))
    change(content)
    text = StringIO()
    editor.dump(content, text)
    return re.sub(r"(?m)(?<=\S) +(?= #|$)", "", text.getvalue())  # of values that became shorter
