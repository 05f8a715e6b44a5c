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
from mlops_loop.onboarding.infer.columns import SLACK
from mlops_loop.onboarding.infer.table import Shares, TableProposal

MUCH_OVERLAP = 0.05  # share of the test rows from which on results mislead
PEOPLE = re.compile(
    r"(?i:(^|[\W_])(sex|gender|race|racial|ethnic\w*|religion|nationality|citizenship|disab\w+"
    r"|marital|age_?group|pregnan\w+)($|[\W_]))"
    r"|[a-z](Sex|Gender|Race|Ethnicity|Religion|Nationality|Citizenship)($|[\W_A-Z])"
)


def print_report(
    console: Console, schema: Schema, proposal: TableProposal, rows: int, shares: Shares, tests: str
) -> None:
    """Print the columns as a table, then the facts that hold for all of it."""
    console.print(columns_table(schema, proposal))
    for name, fact in facts(schema, rows, shares, tests):
        console.print(f"{name:9} {escape(fact)}", soft_wrap=True)


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
    if column.minimum is not None or column.maximum is not None:
        return f"{column.minimum:,.12g} to {column.maximum:,.12g}"
    return shorten(", ".join(column.categories or ()), 60, placeholder=" ...")


def facts(schema: Schema, rows: int, shares: Shares, tests: str) -> Iterator[tuple[str, str]]:
    positive = f", positive class {schema.positive!r}" if schema.positive else ""
    by_time = f"by time, of {schema.timestamp!r}"
    yield "task", f"{schema.task}{positive}"
    yield "target", schema.target
    yield "split", by_time if schema.timestamp else "at random, as there is no timestamp"
    yield "rows", f"{rows:,}, at least {schema.min_rows:,} are required"
    yield "repeated", format_shares(shares)
    yield "limits", f"the observed range, plus {SLACK:.0%} of it on either side"
    yield "missing", " and ".join(map(repr, schema.missing))
    yield "tests", tests
    if ignored := [name for name in schema.columns if name not in schema.used]:
        names = ", ".join(ignored)
        count = f"{len(ignored)} of {len(schema.columns)} columns"
        yield "ignored", f"{count}: {names}; {SCHEMA} says why"
    if found := people(schema):
        names = ", ".join(map(repr, found))
        yield "people", f"{names}: set `protected: true` in {SCHEMA} to evaluate fairness by it"


def format_shares(shares: Shares) -> str:
    text = f"{shares.duplicates:.1%} of the rows, {shares.overlap:.1%} of the test rows in training"
    warning = ": results will be better than on new rows"
    return text + (warning if shares.overlap > MUCH_OVERLAP else "")


def people(schema: Schema) -> list[str]:
    """Return the columns whose names suggest groups of people."""
    used = [name for name in schema.used if name != schema.target]
    return [name for name in used if PEOPLE.search(name) and not schema.columns[name].protected]
