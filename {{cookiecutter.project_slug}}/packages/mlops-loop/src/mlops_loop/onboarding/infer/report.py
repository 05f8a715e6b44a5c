"""Print what was proposed for each column, and why."""

import re
from collections.abc import Iterator
from textwrap import shorten

from rich.console import Console
from rich.markup import escape
from rich.table import Column as Head
from rich.table import Table

from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.cast import CERTAIN, STAND_INS
from mlops_loop.data.profile import Profile
from mlops_loop.onboarding.infer.columns import SLACK
from mlops_loop.onboarding.infer.table import Shares, TableProposal

MUCH_OVERLAP = 0.05  # share of the test rows from which on results mislead
PEOPLE = re.compile(
    r"(?i:(^|[\W_])(sex|gender|race|racial|ethnic\w*|religion|nationality|citizenship|disab\w+"
    r"|marital|age_?group|pregnan\w+)($|[\W_]))"
    r"|[a-z](Sex|Gender|Race|Ethnicity|Religion|Nationality|Citizenship)($|[\W_A-Z])"
)


def print_report(
    console: Console,
    schema: Schema,
    proposal: TableProposal,
    known: Profile,
    shares: Shares,
    tests: str,
) -> None:
    """Print the columns as a table, then the facts that hold for all of it."""
    console.print(columns_table(schema, proposal))
    for name, fact in facts(schema, known, shares, tests):
        console.print(f"{name:9} {escape(fact)}", soft_wrap=True)
    for name, found in proposal.columns.items():
        if found.loud:
            console.print(f"look at   {escape(repr(name))}: {escape(found.reason)}", soft_wrap=True)


def columns_table(schema: Schema, proposal: TableProposal) -> Table:
    table = Table(
        Head("column", overflow="fold"),
        *("type", "role", Head("limits or categories", overflow="fold"), "null"),
        Head("why", overflow="fold"),
    )
    for name, column in schema.columns.items():
        nullable = "yes" if column.nullable else ""
        reason = proposal.reasons[name]
        cells = (name, column.type, column.role, format_values(column), nullable, reason)
        table.add_row(*map(escape, cells), style="dim" if column.role == "ignored" else None)
    return table


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
    yield "repeated", format_shares(shares)
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
        if column.type == "id":
            continue
        kept = {*(column.categories or ())} if column.type == "category" else set[str]()
        wanted = CERTAIN if column.type == "category" and name != schema.target else STAND_INS
        counts = known.columns[name].stand_ins
        found += [
            f"{value!r} in {name} ({count:,})"
            for value, count in counts.items()
            if value not in kept and value.strip() in wanted
        ]
    return ", ".join(found)


def nearly_alike(schema: Schema) -> str:
    """Return the classes and categories that differ only in blanks or case."""
    found = []
    for name, column in schema.used.items():
        same: dict[str, list[str]] = {}
        for value in column.categories or ():
            same.setdefault(" ".join(value.split()).casefold(), []).append(value)
        found += [
            f"{' and '.join(map(repr, values))} in {name!r}"
            for values in same.values()
            if len(values) > 1
        ]
    if not found:
        return ""
    return f"{'; '.join(found)} differ only in blanks or case: make them one at the source"


def format_shares(shares: Shares) -> str:
    text = f"{shares.duplicates:.1%} of the rows, {shares.overlap:.1%} of the test rows in training"
    warning = ": results will be better than on new rows"
    return text + (warning if shares.overlap > MUCH_OVERLAP else "")


def people(schema: Schema) -> list[str]:
    """Return the columns whose names suggest groups of people."""
    used = [name for name in schema.used if name != schema.target]
    return [name for name in used if PEOPLE.search(name) and not schema.columns[name].protected]
