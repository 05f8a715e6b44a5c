"""Config: YAML files read into typed models; a mistake names file, line and key."""

import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from mlops_loop.base.errors import Failure

Model = TypeVar("Model", bound=BaseModel)
Document = TypeVar("Document")
Place = tuple[str, ...]  # the keys that lead to a value; of a list, the items' numbers
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
# LibYAML's, if PyYAML was built with it: a third of the time, and each command reads several files.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, model: type[Model], context: object = None) -> Model:
    """Return the checked content of a YAML file; `context` is what it is checked against."""
    return parse_yaml(path.read_text(encoding="utf-8"), str(path), model, context)


def parse_yaml(text: str, name: str, model: type[Model], context: object = None) -> Model:
    """Return the checked content of a YAML text that is called `name` in errors."""
    lines: dict[Place, int] = {}
    try:
        loader = LOADER(text)
        tree = loader.get_single_node()
        for place, line in positions(tree):
            if place in lines:  # YAML would take the last without a word
                raise Failure(f"{name}, line {line}: the key {place[-1]!r} is there twice")
            lines[place] = line
        content = loader.construct_document(tree) if tree else None
        return model.model_validate(content, context=context)
    except yaml.YAMLError as error:
        raise Failure(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(map(str, first["loc"] or first.get("ctx", {}).get("place", ())))
        key = ".".join(place) or "top level"
        reason = first["msg"].removeprefix("Value error, ")
        raise Failure(f"{name}, line {line_of(lines, place)}: {key}: {reason}") from None
    except ValueError as error:  # such as the date 2013-13-45
        raise Failure(f"{name} is not valid YAML: {error}") from None


def positions(node: yaml.Node | None, place: Place = ()) -> Iterator[tuple[Place, int]]:
    """Yield the line of each key and item of a document, by its place."""
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(number), item, item) for number, item in enumerate(node.value)]
    else:
        return
    for key, start, value in children:
        yield (*place, key), start.start_mark.line + 1
        yield from positions(value, (*place, key))


def line_of(lines: dict[Place, int], place: Place) -> int:
    """Return the line of what stands at `place`, or else of the nearest key around it."""
    found: Place = ()
    for part in place:  # which may be a key that is missing, or name one of several forms
        found = (*found, part) if (*found, part) in lines else found
    return lines.get(found, 1)


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
