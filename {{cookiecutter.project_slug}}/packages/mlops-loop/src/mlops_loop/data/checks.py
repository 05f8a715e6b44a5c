"""Checks of the data: what one is, and those that need the whole table or a sample of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from textwrap import shorten
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import SplitParams
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data import data_checks, split
from mlops_loop.data.data_checks import Distribution, Hashes

EXAMPLES = 5  # offending values shown for a failed check
NOT_NULL = "column values to not be null"
TABLE = "the table"  # in place of a column


@dataclass(frozen=True)
class Check:
    """How many rows broke a rule, and how many may; as validation.json has it."""

    column: str
    rule: str
    failed_rows: int
    rows: int
    examples: list[str] = field(default_factory=list)
    allowed: float = 0.0  # share of the rows
    expected: Mapping[str, object] = field(default_factory=dict)
    score: float | None = None

    @property
    def passed(self) -> bool:
        return self.failed_rows <= self.allowed * self.rows + 1e-6

    def plus(self, other: Self) -> Self:
        """Return the check of the rows of both."""
        examples = list(dict.fromkeys([*self.examples, *other.examples]))[:EXAMPLES]
        failed = self.failed_rows + other.failed_rows
        return replace(self, failed_rows=failed, rows=self.rows + other.rows, examples=examples)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}

    def describe(self) -> str:
        """Return a failed check in one line."""
        limits = ", ".join(f"{key} {value}" for key, value in self.expected.items())
        score = "" if self.score is None else f"measured {self.score}"
        allowed = f" (allowed {self.allowed:.2%})" if self.allowed else ""
        parts = [self.rule, shorten(limits, 70), score, f"{self.failed_rows:,} rows{allowed}"]
        if self.examples:
            parts.append("for example " + "; ".join(shorten(text, 120) for text in self.examples))
        return f"  {self.column}: " + ", ".join(filter(None, parts))


def table_checks(schema: Schema, hashes: Mapping[str, Hashes], params: SplitParams) -> list[Check]:
    """Return the checks of data/raw.parquet as a whole; `hashes` are of its rows."""
    rows = pq.read_metadata(RAW).num_rows
    few = max(0, schema.min_rows - rows)
    expected = {"min_rows": schema.min_rows}
    checks = [Check(TABLE, "row count to be enough", few, rows, [f"{rows:,} rows"], 0, expected)]
    if schema.classes and schema.target in pq.read_schema(RAW).names:
        found = pq.read_table(RAW, columns=[schema.target])[schema.target].unique().to_pylist()
        lost = [name for name in schema.classes if name not in found]
        checks.append(Check(schema.target, "every class to occur", rows * bool(lost), rows, lost))
    if "all" in hashes:
        again = np.flatnonzero(pd.Series(hashes["all"]).duplicated())
        shown = rows_at(again, schema.source)
        rule = "rows not to be duplicated"
        checks.append(Check(TABLE, rule, len(again), rows, shown, schema.max_duplicates))
    if "unique" in hashes:
        again = np.flatnonzero(pd.Series(hashes["unique"]).duplicated())
        shown = rows_at(again, schema.unique)
        names = ", ".join(schema.unique)
        checks.append(Check(names, "columns to be unique", len(again), rows, shown))
    if "learnt" in hashes:
        checks += overlap(schema, hashes["learnt"], params)
    return checks


def overlap(schema: Schema, hashes: Hashes, params: SplitParams) -> Iterator[Check]:
    """Give the check that test rows are not in the training window; none if there is no split."""
    try:
        windows = split.assign(schema, params)
    except Failure:
        return  # which the stage `split` reports
    test = np.flatnonzero(windows == 2)
    found = test[np.isin(hashes[test], hashes[windows == 0])]
    known = [name for name in (*schema.features, schema.target) if name in schema.source]
    rule = "test rows not to be in the training window"
    yield Check(TABLE, rule, len(found), len(test), rows_at(found, known), schema.max_overlap)


def rows_at(places: NDArray[np.int64], names: Iterable[str]) -> list[str]:
    """Return the first of the rows of data/raw.parquet at `places`, as text."""
    table = pa.dataset.dataset(RAW).take(pa.array(places[:EXAMPLES]), columns=list(names))
    return [", ".join(map(str, row.values())) for row in table.to_pylist()]


def leaks(schema: Schema, sample: pd.DataFrame, rows: int) -> Iterator[Check]:
    """Give the checks that no feature alone predicts the target."""
    target = schema.target
    if target not in sample:
        return
    expected = {"max_leakage": schema.max_leakage}
    scores = data_checks.leaks(sample, schema.features, target, schema.task == "regression")
    for name, score in scores.items():
        leaking = score >= schema.max_leakage
        pairs = sample[[name, target]].dropna().head(EXAMPLES * leaking).to_numpy()
        shown = [f"{value} where {target} is {truth}" for value, truth in pairs]
        rule = f"column not to tell {target}"
        yield Check(name, rule, rows * leaking, rows, shown, 0, expected, round(score, 4))


def shifts(
    schema: Schema, sample: pd.DataFrame, rows: int, accepted: Mapping[str, Distribution]
) -> Iterator[Check]:
    """Give the checks that each column is distributed as in the data that was accepted last.

    A column that was not there, or another one, passes. Scores are given for shifts only, so that
    the same data gives the same report, whatever was accepted before.
    """
    for name, column in watched(schema, sample).items():
        limit = column.max_shift or schema.max_shift
        found = Check(
            name, "column to be distributed as before", 0, rows, [], 0, {"max_shift": limit}
        )
        before = accepted.get(name)
        if before and before.type == column.type:
            score, moved, shown = data_checks.shift(before, sample[name])
            if score > limit:
                failed = max(1, round(rows * moved))
                found = replace(found, failed_rows=failed, examples=shown, score=round(score, 4))
        yield found


def watched(schema: Schema, sample: pd.DataFrame) -> dict[str, Column]:
    """Return the columns whose distribution is watched."""
    kinds = ("number", "integer", "boolean", "category")
    return {
        name: column
        for name, column in schema.used.items()
        if name in sample and column.role != "id" and column.type in kinds
    }
