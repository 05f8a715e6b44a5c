"""The checks of the data: Great Expectations' of single values, and those of the whole table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from textwrap import shorten

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from great_expectations.core import ExpectationValidationResult
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import SplitParams
from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.data import data_checks, engine, split
from mlops_loop.data.cast import cells, latest_now
from mlops_loop.data.data_checks import Distribution

CELLS = 10_000_000  # values that Great Expectations looks at at a time: so many columns, all rows
EXAMPLES = 5  # offending values shown for a failed check
NOT_NULL = "column values to not be null"
TABLE = "the table"  # in place of a column
GOOD = ""  # the column of a typed file that says whether a row keeps the contract


@dataclass(frozen=True)
class Check:
    """How many rows broke a rule, and how many may; as validation.json has it."""

    column: str
    rule: str
    failed_rows: int
    rows: int
    examples: Sequence[str] = ()
    allowed: float = 0.0  # share of the rows
    expected: Mapping[str, object] = field(default_factory=dict)
    score: float | None = None

    @property
    def passed(self) -> bool:
        return self.failed_rows <= self.allowed * self.rows + 1e-6

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}

    @property
    def asked(self) -> str:
        """The rule with its limits."""
        limits = ", ".join(f"{key} {value}" for key, value in self.expected.items())
        score = "" if self.score is None else f"measured {self.score}"
        allowed = f"allowed in {self.allowed:.2%}" if self.allowed else ""
        return ", ".join(filter(None, (self.rule, shorten(limits, 70), score, allowed)))

    def describe(self) -> str:
        """Return a failed check in one line."""
        line = f"  {self.column}: {self.asked}, {self.failed_rows:,} rows"
        shown = "; ".join(shorten(example, 120) for example in self.examples)
        return f"{line}, for example {shown}" if shown else line


def expectations(
    schema: Schema, names: Iterable[str], present: Iterable[str]
) -> list[gxe.Expectation]:
    """Return the suite for some columns of the contract, of which `present` are in the table."""
    rules: list[gxe.Expectation] = []
    for name in names:
        rules.append(gxe.ExpectColumnToExist(column=name))
        rules += column_expectations(schema, name) if name in present else ()
    return rules


def column_expectations(schema: Schema, name: str) -> Iterator[gxe.Expectation]:
    """Give what the contract expects of each value in a column. Change this first."""
    column = schema.columns[name]
    filled = 1 - column.max_null if column.nullable else column.mostly
    yield gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=filled)
    common = {"column": name, "mostly": column.mostly}
    if column.categories is not None and not column.allow_unknown:
        yield gxe.ExpectColumnValuesToBeInSet(value_set=list(column.categories), **common)
    if column.type in ("number", "integer"):
        low, high = column.limits
        yield gxe.ExpectColumnValuesToBeBetween(min_value=low, max_value=high, **common)
    if name == schema.timestamp:
        latest = latest_now().tz_localize("UTC")  # as `value_checks` gives the times
        yield gxe.ExpectColumnValuesToBeBetween(max_value=latest, **common)


def value_checks(schema: Schema, typed: Path) -> Iterator[Check]:
    """Give Great Expectations' results, on a file with the rows in the contract's types.

    Each column is validated in all rows; a derived one in those that keep the contract, as nothing
    is derived from the others.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset(schema.name)
    whole = asset.add_batch_definition_whole_dataframe("whole")
    present = pq.read_schema(typed).names
    at_once = max(1, CELLS // max(1, pq.read_metadata(typed).num_rows))
    if len({name.lower() for name in present}) < len(present):
        at_once = 1  # to Great Expectations `a` and `A` are the same
    derived = schema.derived
    for columns in (schema.source, derived):
        names = list(columns)
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            read = [GOOD, *(name for name in some if name in present)]
            table = pd.read_parquet(typed, columns=read)
            table = table[table[GOOD]] if columns is derived else table
            for name in table.select_dtypes("datetime"):  # without a zone each is compared alone
                table[name] = table[name].dt.tz_localize("UTC")
            batch = whole.get_batch({"dataframe": table})
            suite = gx.ExpectationSuite(schema.name, expectations(schema, some, present))
            yield from (as_check(one, len(table)) for one in batch.validate(suite).results)


def as_check(outcome: ExpectationValidationResult, rows: int) -> Check:
    """Return one of Great Expectations' results as a check."""
    given = dict(outcome.expectation_config.kwargs)
    allowed = round(1 - given.pop("mostly", 1), 9)
    column = given.pop("column")
    given.pop("batch_id", None)
    expected = {key: value for key, value in given.items() if value not in (LARGEST, -LARGEST)}
    rule = outcome.expectation_config.type.removeprefix("expect_").replace("_", " ")
    if isinstance(expected.get("max_value"), datetime):  # the time it is: the report stays the same
        rule, expected = "column values not to be in the future", {}
    elif "between" in rule and not expected:
        rule = "column values to be finite"
    failed = int(outcome.result.get("unexpected_count", 0 if outcome.success else rows))
    values = outcome.result.get("partial_unexpected_list", []) if rule != NOT_NULL else []
    shown = list(dict.fromkeys(map(str, values)))[:EXAMPLES]
    return Check(column, rule, failed, rows, shown, allowed, expected)


def type_checks(schema: Schema) -> Iterator[Check]:
    """Give the checks that all values of data/raw.parquet are of the contract's types."""
    with engine.stored(RAW) as rows:
        for name, cell in cells(rows, schema.source).items():
            asked = f"SELECT count(*) FILTER ({cell.misfit}), count(*) FROM rows"
            ((count, total),) = rows.connection.sql(asked).fetchall()
            column = schema.columns[name]
            rule = f"column values to be of type {column.type}"
            found = Check(name, rule, count, total, allowed=round(1 - column.mostly, 9))
            if count:
                first = f"SELECT {cell.source}::VARCHAR FROM rows WHERE {cell.misfit} LIMIT 100"
                shown = dict.fromkeys(value for (value,) in rows.connection.sql(first).fetchall())
                found = replace(found, examples=list(shown)[:EXAMPLES])
            yield found


def table_checks(schema: Schema, typed: Path, params: SplitParams) -> Iterator[Check]:
    """Give the checks of the table as a whole."""
    rows = pq.read_metadata(typed).num_rows
    present = pq.read_schema(typed).names
    few = max(0, schema.min_rows - rows)
    expected = {"min_rows": schema.min_rows}
    yield Check(TABLE, "row count to be enough", few, rows, [f"{rows:,} rows"], 0, expected)
    if schema.classes and schema.target in present:
        found = pq.read_table(typed, columns=[schema.target])[schema.target].unique().to_pylist()
        lost = [name for name in schema.classes if name not in found]
        yield Check(schema.target, "every class to occur", rows * bool(lost), rows, lost)
    if {*schema.source} <= {*present}:
        again = repeated(typed, list(schema.source))
        shown = rows_at(typed, again, schema.source)
        rule = "rows not to be duplicated"
        yield Check(TABLE, rule, len(again), rows, shown, schema.max_duplicates)
    if schema.unique and {*schema.unique} <= {*present}:
        again = repeated(typed, schema.unique)
        shown = rows_at(typed, again, schema.unique)
        yield Check(", ".join(schema.unique), "columns to be unique", len(again), rows, shown)
    if {*schema.features, schema.target} <= {*present}:
        yield from overlap(schema, typed, params)


def repeated(typed: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the places of the rows that are like an earlier one in these columns."""
    return np.flatnonzero(pd.Series(data_checks.hashes(typed, names)).duplicated())


def overlap(schema: Schema, typed: Path, params: SplitParams) -> Iterator[Check]:
    """Give the check that test rows are not in the training window; none if there is no split."""
    try:
        windows = split.assign(schema, params)
    except Failure:
        return  # which the stage `split` reports
    hashes = data_checks.hashes(typed, [*schema.features, schema.target])
    test = np.flatnonzero(windows == 2)
    found = test[np.isin(hashes[test], hashes[windows == 0])]
    known = [name for name in (*schema.features, schema.target) if name in schema.source]
    rule = "test rows not to be in the training window"
    shown = rows_at(typed, found, known)
    yield Check(TABLE, rule, len(found), len(test), shown, schema.max_overlap)


def rows_at(typed: Path, places: NDArray[np.int64], names: Iterable[str]) -> list[str]:
    """Return the first of the rows at `places`, as text."""
    table = pa.dataset.dataset(typed).take(pa.array(places[:EXAMPLES]), columns=list(names))
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
        expected = {"max_shift": limit}
        found = Check(name, "column to be distributed as before", 0, rows, expected=expected)
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
