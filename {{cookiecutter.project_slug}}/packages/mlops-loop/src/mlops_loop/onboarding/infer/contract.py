"""Write a proposal as schema.yaml: a head that explains the keys, each column with its reason."""

import re
from math import ceil
from textwrap import indent

import yaml
from pydantic import JsonValue

from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.schema import Column
from mlops_loop.contract.versions import LOOP_KEY, VERSION
from mlops_loop.onboarding.infer.columns import tidy
from mlops_loop.onboarding.infer.table import MAX_LEAKAGE, Shares, TableProposal

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


def as_yaml(proposal: TableProposal, source: str, shares: Shares | None, head: str = HEAD) -> str:
    """Return schema.yaml, without the keys that have their default."""
    about: dict[str, str | float | list[str]] = {LOOP_KEY: ".".join(VERSION.split(".")[:2])}
    about |= {"name": proposal.name, "task": proposal.task}
    about |= {"positive": proposal.positive} if proposal.positive else {}
    about |= {"target": proposal.target}
    about |= {"timestamp": proposal.timestamp} if proposal.timestamp else {}
    about |= {"unique": proposal.unique} if proposal.unique else {}
    about |= {"min_rows": proposal.min_rows}
    if proposal.max_leakage != MAX_LEAKAGE:
        about["max_leakage"] = proposal.max_leakage
    if shares:
        about["max_duplicates"] = allowed(shares.duplicates)
        about["max_overlap"] = allowed(shares.overlap)
    columns = [
        comment(found.column.role, found.reason) + indent(dump(name, keys_of(found.column)), "  ")
        for name, found in proposal.columns.items()
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


def allowed(share: float) -> float:
    """Return a limit for a share that has slack for other rows, and can be exceeded."""
    return min(ceil((1.5 * share + 0.01) * 1000), ceil((1 + share) / 2 * 1000)) / 1000


def present_head() -> str:
    """Return the comment at the top of the present schema.yaml, or the usual one."""
    if not SCHEMA.exists():
        return HEAD
    lines = SCHEMA.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        if not line.startswith("#"):
            break
        kept += [] if line.startswith(INFERRED) else [line]
    return "".join(kept) or HEAD


def former_task() -> str | None:
    """Return the task that the present schema.yaml names, whatever else is in it."""
    text = SCHEMA.read_text(encoding="utf-8") if SCHEMA.exists() else ""
    named = re.search(r"(?m)^task: *(\S+)", text)
    return named[1] if named else None
