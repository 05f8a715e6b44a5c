"""Print what was proposed for each column, and what the user is to look at."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from textwrap import shorten

from rich.console import Console
from rich.markup import escape
from rich.table import Column as Head
from rich.table import Table

from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.onboarding.infer.columns import Proposal

MUCH_OVERLAP = 0.085  # limit of repeated test rows from which on results mislead
PEOPLE = re.compile(
    r"(?i:(^|[\W_])(sex|gender|race|racial|ethnic\w*|religion|nationality|citizenship|disab\w+"
    r"|marital|age_?group|pregnan\w+)($|[\W_]))"
    r"|[a-z](Sex|Gender|Race|Ethnicity|Religion|Nationality|Citizenship)($|[\W_A-Z])"
)


def print_report(
    console: Console, schema: Schema, proposals: Mapping[str, Proposal], tests: str
) -> None:
    """Print the columns as a table, and below it what asks something of the user."""
    positive = f", positive class {schema.positive!r}" if schema.positive else ""
    table = Table(
        Head("column", overflow="fold"),
        *("type", "role", Head("limits or categories", overflow="fold"), "null"),
        Head("why", overflow="fold"),
    )
    for name, column in schema.columns.items():
        nullable = "yes" if column.nullable else ""
        reason = proposals[name].reason
        cells = (name, column.type, column.role, format_values(column), nullable, reason)
        table.add_row(*map(escape, cells), style="dim" if column.role == "ignored" else None)
    how = f"by time, of {schema.timestamp!r}" if schema.timestamp else "at random"
    title = f"{schema.name}: {schema.task} of {schema.target!r}{positive}, split {how}"
    console.print(escape(title), soft_wrap=True)
    console.print(table)
    for name, asked in questions(schema, proposals, tests):
        console.print(f"{name:9} {escape(asked)}", soft_wrap=True)


def format_values(column: Column) -> str:
    if column.minimum is not None and column.maximum is not None:
        return f"{column.minimum:,.12g} to {column.maximum:,.12g}"
    if column.minimum is not None:
        return f"from {column.minimum:,.12g}"
    return shorten(", ".join(column.categories or ()), 60, placeholder=" ...")


def questions(
    schema: Schema, proposals: Mapping[str, Proposal], tests: str
) -> Iterator[tuple[str, str]]:
    if ignored := [name for name in schema.columns if name not in schema.used]:
        count = f"{len(ignored)} of {len(schema.columns)} columns"
        yield "ignored", f"{count}: {', '.join(ignored)}; {SCHEMA} says why"
    for name, found in proposals.items():
        if found.loud:
            yield "look at", f"{name!r}: {found.reason}"
    for name, column in schema.used.items():
        alike = defaultdict[str, list[str]](list)
        for value in column.categories or ():
            alike[" ".join(value.split()).casefold()].append(repr(value))
        for same in [same for same in alike.values() if len(same) > 1]:
            mend = "differ only in blanks or case: make them one at the source"
            yield "look at", f"{' and '.join(same)} in {name!r} {mend}"
    if schema.max_overlap > MUCH_OVERLAP:
        what = "many test rows are in training, too: results will be better than on new rows"
        yield "look at", f"{what}; leave repeated ones out at the source"
    yield "tests", tests
    used = [name for name in schema.used if name != schema.target]
    people = [name for name in used if PEOPLE.search(name) and not schema.columns[name].protected]
    if people:
        names = ", ".join(map(repr, people))
        yield "people", f"{names}: set `protected: true` in {SCHEMA} to evaluate fairness by it"
