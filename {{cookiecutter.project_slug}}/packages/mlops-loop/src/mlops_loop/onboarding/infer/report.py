"""Print what was proposed for each column, and why."""

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
from mlops_loop.data.cast import CERTAIN, STAND_INS
from mlops_loop.data.profile import Profile
from mlops_loop.onboarding.infer.columns import SLACK, Proposal
from mlops_loop.onboarding.infer.table import Shares

MUCH_OVERLAP = 0.05  # share of the test rows from which on results mislead
PEOPLE = re.compile(
    r"(?i:(^|[\W_])(sex|gender|race|racial|ethnic\w*|religion|nationality|citizenship|disab\w+"
    r"|marital|age_?group|pregnan\w+)($|[\W_]))"
    r"|[a-z](Sex|Gender|Race|Ethnicity|Religion|Nationality|Citizenship)($|[\W_A-Z])"
)


def print_report(
    console: Console,
    schema: Schema,
    proposals: Mapping[str, Proposal],
    known: Profile,
    shares: Shares,
    tests: str,
) -> None:
    """Print the columns as a table, then the facts that hold for all of it."""
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
    console.print(table)
    for name, fact in facts(schema, known, shares, tests):
        console.print(f"{name:9} {escape(fact)}", soft_wrap=True)
    for name, found in proposals.items():
        if found.loud:
            console.print(f"look at   {escape(repr(name))}: {escape(found.reason)}", soft_wrap=True)


def format_values(column: Column) -> str:
    if column.minimum is not None and column.maximum is not None:
        return f"{column.minimum:,.12g} to {column.maximum:,.12g}"
    if column.minimum is not None:
        return f"from {column.minimum:,.12g}"
    return shorten(", ".join(column.categories or ()), 60, placeholder=" ...")


def facts(schema: Schema, known: Profile, shares: Shares, tests: str) -> Iterator[tuple[str, str]]:
    positive = f", positive class {schema.positive!r}" if schema.positive else ""
    by_time = f"by time, of {schema.timestamp!r}"
    yield "task", f"{schema.task}{positive}"
    yield "target", schema.target
    yield "split", by_time if schema.timestamp else "at random, as there is no timestamp"
    yield "rows", f"{known.rows:,}, at least {schema.min_rows:,} are required"
    mislead = ": results will be better than on new rows" * (shares.overlap > MUCH_OVERLAP)
    overlap = f"{shares.overlap:.1%} of the test rows in training{mislead}"
    yield "repeated", f"{shares.duplicates:.1%} of the rows, {overlap}"
    yield "limits", f"the observed range, plus {SLACK:.0%} of it on either side"
    if missing := stand_ins(schema, known):
        yield "missing", missing
    if alike := nearly_alike(schema):
        yield "look at", alike
    yield "tests", tests
    if ignored := [name for name in schema.columns if name not in schema.used]:
        names = ", ".join(ignored)
        count = f"{len(ignored)} of {len(schema.columns)} columns"
        yield "ignored", f"{count}: {names}; {SCHEMA} says why"
    if found := people(schema):
        names = ", ".join(map(repr, found))
        yield "people", f"{names}: set `protected: true` in {SCHEMA} to evaluate fairness by it"


def stand_ins(schema: Schema, known: Profile) -> str:
    """Return which texts count as missing, and how often."""
    found = []
    for name, column in schema.used.items():
        few = column.type == "category" and name != schema.target
        wanted = {*(CERTAIN if few else STAND_INS)} if column.type != "id" else set[str]()
        found += [
            f"{value!r} in {name} ({count:,})"
            for value, count in known.columns[name].stand_ins.items()
            if value not in (column.categories or ()) and value.strip() in wanted
        ]
    return ", ".join(found)


def nearly_alike(schema: Schema) -> str:
    """Return the classes and categories that differ only in blanks or case."""
    found = []
    for name, column in schema.used.items():
        alike = defaultdict[str, list[str]](list)
        for value in column.categories or ():
            alike[" ".join(value.split()).casefold()].append(repr(value))
        found += [f"{' and '.join(same)} in {name!r}" for same in alike.values() if len(same) > 1]
    mend = " differ only in blanks or case: make them one at the source"
    return "; ".join(found) + mend if found else ""


def people(schema: Schema) -> list[str]:
    """Return the columns whose names suggest groups of people."""
    used = [name for name in schema.used if name != schema.target]
    return [name for name in used if PEOPLE.search(name) and not schema.columns[name].protected]
