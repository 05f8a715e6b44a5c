"""The page of the data's validation: what failed first, then a row for each column."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from textwrap import shorten

from mlops_loop.base import files
from mlops_loop.data.checks import NOT_NULL, TABLE, Check
from mlops_loop.reporting import page
from mlops_loop.reporting.formats import number, percent

WORDS = {  # of rules as validation.json has them; others are shown as they are
    "column to exist": "is in the table",
    NOT_NULL: "missing values",
    "column values to be in set": "known categories only",
    "column values to be between": "within its limits",
    "column values to be finite": "finite numbers",
    "column values not to be in the future": "not in the future",
    "column to be distributed as before": "shift",
}
BEGINNING = re.compile("column (values )?(to be )?")


def write(checks: Sequence[Check], rows: int) -> None:
    failed = [check for check in checks if not check.passed]
    text = page.compose(
        page.PAGES["Data"],
        "validation.html",
        names=(),  # a stage's page: no link to what may not be there yet
        title="Data validation",
        facts=[f"{rows:,} rows", f"{len(checks) - len(failed)} of {len(checks)} checks passed"],
        failed=[(check, in_words(check)) for check in failed],
        columns=by_column(checks),
    )
    files.write_text(page.PAGES["Data"], text)
    page.write_overview()


def by_column(checks: Iterable[Check]) -> list[tuple[str, int, int, list[str]]]:
    """Return each column's name, how many checks it passed, of how many, and what they were.

    Columns that failed come first, and the table as a whole before its columns.
    """
    found = defaultdict[str, list[Check]](list)
    for check in checks:
        found[check.column].append(check)
    columns = [
        (name, sum(check.passed for check in its), len(its), list(map(in_words, its)))
        for name, its in found.items()
    ]
    return sorted(columns, key=lambda column: (column[1] == column[2], column[0] != TABLE))


def in_words(check: Check) -> str:
    """Return what a check asks: "within its limits: 10 to 6,000"."""
    if check.rule == NOT_NULL:
        allowed = f", up to {percent(check.allowed)} allowed" if check.allowed else ""
        return f"{percent(check.failed_rows / max(1, check.rows))} missing{allowed}"
    leak = check.rule.startswith("column not to tell ")
    rule = "leakage" if leak else BEGINNING.sub("", WORDS.get(check.rule, check.rule), 1)
    limits = "; ".join(expected(check))
    return f"{rule}: {limits}" if limits else rule


def expected(check: Check) -> Iterable[str]:
    """Give the limits of a check in words."""
    given = dict(check.expected)
    if {"min_value", "max_value"} & given.keys():
        ends = (given.pop("min_value", None), given.pop("max_value", None))
        yield " to ".join(map(in_figures, ends))
    if isinstance(values := given.pop("value_set", None), Sequence):
        yield shorten(", ".join(map(str, values)), 120, placeholder=" …")
    measured = "" if check.score is None else f"{number(check.score)}, "
    for name, value in given.items():
        bound = "at least" if name.startswith("min_") else "at most"
        yield f"{measured}{bound} {in_figures(value)}"
    if check.allowed:
        yield f"up to {percent(check.allowed)} of the rows may break it"


def in_figures(value: object) -> str:
    if isinstance(value, int | float):
        return number(value)
    return "any" if value is None else str(value)
