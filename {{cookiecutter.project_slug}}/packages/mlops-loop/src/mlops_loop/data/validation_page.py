"""The page of the data's validation."""

from collections import defaultdict
from collections.abc import Iterable

from mlops_loop.base import files
from mlops_loop.data.checks import TABLE, Check
from mlops_loop.reporting import page


def write(found: Iterable[Check], rows: int, summary: str) -> None:
    """Write what failed, then a row for each column: those that failed and the table first."""
    by_column = defaultdict[str, list[Check]](list)
    for one in found:
        by_column[one.column].append(one)
    columns = [
        (name, sum(one.passed for one in its), len(its), [one.asked for one in its])
        for name, its in by_column.items()
    ]
    text = page.compose(
        page.PAGES["Data"],
        "validation.html",
        names=(),  # a stage's page: no link to what may not be there yet
        title="Data validation",
        facts=[f"{rows:,} rows", summary],
        failed=[(one, one.asked) for one in found if not one.passed],
        columns=sorted(columns, key=lambda each: (each[1] == each[2], each[0] != TABLE)),
    )
    files.write_text(page.PAGES["Data"], text)
    page.write_overview()
