"""Write a proposal as schema.yaml: a head that explains the keys, each column with its reason."""

from collections.abc import Mapping
from itertools import takewhile
from textwrap import indent

import yaml
from pydantic import JsonValue

from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.onboarding.infer.columns import Proposal, tidy

HEAD = """\
# The data contract: what each column of the table is. The Great Expectations suite, the API's
# types and texts, the model's inputs, the drift report and the model card are derived from it.
#
# type: number, integer, category, boolean, id or timestamp
# role: feature (default), input (the API takes it, the model does not see it), target, timestamp,
#   id, slice or ignored
# derived: true is a feature (or slice) that `derive` in features.py computes from the inputs
# slice: true evaluates the model on each value of the column
"""
INFERRED = "# Inferred from "


def as_yaml(
    schema: Schema, proposals: Mapping[str, Proposal], source: str, head: str = HEAD
) -> str:
    """Return schema.yaml, without the keys that have their default."""
    about = schema.model_dump(exclude={"columns"}, exclude_defaults=True, mode="json")
    columns = [
        comment(found.column.role, found.reason) + indent(dump(name, keys_of(found.column)), "  ")
        for name, found in proposals.items()
    ]
    keys = "".join(dump(key, value) for key, value in about.items())
    origin = f"{INFERRED}{printable(source)}: correct what you know better.\n"
    return f"{head}{origin}{keys}columns:\n{''.join(columns)}"


def dump(key: str, value: object) -> str:
    """Return a key and its value in YAML, lists and mappings on one line if they are short."""
    content = {key: value}
    # PyYAML writes the line break U+0085 as it is, and reads it as a space.
    readable = "\x85" not in str(content) and "\\x85" not in str(content)
    return yaml.safe_dump(
        content,
        default_flow_style=None if isinstance(value, list | dict) else False,
        sort_keys=False,
        allow_unicode=readable,
        width=100,
    )


def keys_of(column: Column) -> dict[str, JsonValue]:
    """Return the keys that were set, as YAML has them."""
    found = column.model_dump(mode="json", exclude_unset=True)
    return {key: tidy(value) if type(value) is float else value for key, value in found.items()}


def comment(role: str, reason: str) -> str:
    return f"  # {'ignored: ' * (role == 'ignored')}{printable(reason)}\n"


def printable(text: str) -> str:
    """Return a text on one line, without what a YAML comment cannot hold."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in line)


def present_head() -> str:
    """Return the comment at the top of the present schema.yaml, or the usual one."""
    text = SCHEMA.read_text(encoding="utf-8") if SCHEMA.exists() else ""
    head = takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    return "".join(line for line in head if not line.startswith(INFERRED)) or HEAD
