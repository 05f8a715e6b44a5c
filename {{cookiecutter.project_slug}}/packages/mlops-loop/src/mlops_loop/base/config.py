"""Config: YAML files read into typed models; a mistake names file, line and key."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mlops_loop.base.errors import Failure

Model = TypeVar("Model", bound=BaseModel)
Document = TypeVar("Document")
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
        if twice := repeated_key(tree):
            where = f"{name}, line {twice.start_mark.line + 1}"
            raise Failure(f"{where}: the key {twice.value!r} is there twice")
        content = loader.construct_document(tree) if tree else None
        return model.model_validate(content, context=context)
    except yaml.YAMLError as error:
        raise Failure(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        reason = error.errors()[0]["msg"]
        line = line_of(tree, place)
        key = ".".join(str(part) for part in place)
        reason = reason.removeprefix("Value error, ")
        raise Failure(f"{name}, line {line}: {key or 'top level'}: {reason}") from None
    except ValueError as error:  # such as the date 2013-13-45
        raise Failure(f"{name} is not valid YAML: {error}") from None


def repeated_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """Return a key that stands twice in the same mapping: YAML would take the last without a
    word.
    """
    children = list(node.value) if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        keys = [key for key, _ in node.value]
        first = {key.value: key for key in reversed(keys)}
        for key in keys:
            if first[key.value] is not key:
                return key  # type: ignore[no-any-return]
        children = [value for _, value in node.value]
    return next(filter(None, map(repeated_key, children)), None)


def line_of(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """Return the line on which the key at `place` stands, or else the nearest one around it."""
    mark = node.start_mark.line if node else 0
    for part in place:
        found = []
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = [(item, item) for item in node.value[part : part + 1]]
        if found:  # else the key is missing, or pydantic's name for one of several forms
            mark = found[0][0].start_mark.line
            node = found[0][1]
    return mark + 1


def edited(path: Path, change: Callable[[Document], None]) -> str:
    """Return the text of a YAML file after a change; comments stay."""
    from ruamel.yaml import YAML  # here, because the server has none

    editor = YAML()
    text = StringIO()
    tag = "tag:yaml.org,2002:"
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.width = 110
    editor.preserve_quotes = True
    # As PyYAML reads it, which holds to YAML 1.1: null by name, and a point in every float.
    add = editor.representer.add_representer
    add(type(None), lambda to, _: to.represent_scalar(f"{tag}null", "null"))
    add(float, lambda to, x: to.represent_scalar(f"{tag}float", yaml.safe_dump(x).split()[0]))
    content = editor.load(path.read_text(encoding="utf-8"))
    change(content)
    editor.dump(content, text)
    return re.sub(
        r"(?m)(?<=\S) +(?= #|$)", "", text.getvalue()
    )  # comments stay beside shorter values
