"""Checks of single rows: the Great Expectations suite that the contract implies, and types."""

import sys
from collections.abc import Iterator
from typing import TypedDict

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from mlops_loop.base.files import RAW
from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.data import data_checks, engine
from mlops_loop.data.cast import check_table, latest_now, misfits_sql
from mlops_loop.data.check import EXAMPLES, Check, record
from mlops_loop.data.data_checks import Hashes
from mlops_loop.data.derived import checked_table

CHUNK = 500_000  # rows that are checked at a time,
CELLS = 10_000_000  # or as many as hold so many values
NOT_NULL = "column values to not be null"


def column_expectations(name: str, column: Column) -> list[gxe.Expectation]:
    """Return what the contract expects of each value in a column. Change this first."""
    filled = 1 - column.max_null if column.nullable else column.mostly
    rules: list[gxe.Expectation] = [gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=filled)]
    common = {"column": name, "mostly": column.mostly}
    if column.categories is not None and not column.allow_unknown:
        rules.append(gxe.ExpectColumnValuesToBeInSet(value_set=list(column.categories), **common))
    if column.type in ("number", "integer"):
        low, high = column.limits
        rules.append(gxe.ExpectColumnValuesToBeBetween(min_value=low, max_value=high, **common))
    return rules


def expectations(schema: Schema, present: list[str]) -> list[gxe.Expectation]:
    """Return the suite that the contract implies for the rows of a table with the columns
    `present`.
    """
    rules: list[gxe.Expectation] = []
    for name, column in schema.used.items():
        rules.append(gxe.ExpectColumnToExist(column=name))
        rules += column_expectations(name, column) if name in present else []
        if name == schema.timestamp and name in present:
            common = {"column": name, "mostly": column.mostly}
            rules.append(gxe.ExpectColumnValuesToBeBetween(max_value=latest_now(), **common))
    return rules


def chunks() -> Iterator[pa.Table]:
    """Give the rows of data/raw.parquet, some at a time."""
    file = pq.ParquetFile(RAW)
    rows = min(CHUNK, CELLS // file.metadata.num_columns)
    count = -(-file.metadata.num_rows // rows)
    hidden = count < 2 or not sys.stderr.isatty()
    console = Console(stderr=True)
    for batch in track(file.iter_batches(rows), "rows", count, console=console, disable=hidden):
        yield pa.table(batch)
    if not count:
        yield file.schema_arrow.empty_table()


class Arguments(TypedDict, total=False):
    """What an expectation was made with; there may be others."""

    column: str
    mostly: float


class Configuration(TypedDict):
    type: str
    kwargs: Arguments


class Counted(TypedDict, total=False):
    unexpected_count: int
    partial_unexpected_list: list[object]


class Outcome(TypedDict):
    """A result of Great Expectations, in those of its keys that are read here."""

    success: bool
    expectation_config: Configuration
    result: Counted


def as_check(outcome: Outcome, rows: int) -> Check:
    """Return one of Great Expectations' results as a check."""
    config = outcome["expectation_config"]
    result = outcome["result"]
    given = config["kwargs"]
    allowed = round(1 - given.get("mostly", 1), 9)
    expected = {
        key: value
        for key, value in given.items()
        if key not in ("column", "mostly", "batch_id") and value not in (LARGEST, -LARGEST)
    }
    rule = config["type"].removeprefix("expect_").replace("_", " ")
    if "between" in rule and isinstance(expected.get("max_value"), str):
        rule = "column values not to be in the future"
        expected = {}
    elif "between" in rule and not expected:
        rule = "column values to be finite"
    failed = result.get("unexpected_count", 0 if outcome["success"] else rows)
    examples = () if "null" in rule else result.get("partial_unexpected_list", ())
    return record(given["column"], rule, failed, rows, examples, expected=expected, allowed=allowed)


def check_type(name: str, column: Column, given: pa.Table, typed: pa.Table) -> Check:
    """Return the check that all values are of the contract's type."""
    rows = len(given)
    kind = given.schema.field(name).type
    rule = f"column values to be of type {column.type}"
    allowed = round(1 - column.mostly, 9)
    if typed[name].null_count == given[name].null_count and not pa.types.is_floating(kind):
        return record(name, rule, 0, rows, allowed=allowed)
    wrong = engine.run(given.select([name]), misfits_sql(given.schema.field(name), column))
    examples = wrong["c0"].unique().slice(0, EXAMPLES).to_pylist()
    return record(name, rule, len(wrong), rows, examples, allowed=allowed)


class Suite:
    """The expectations of a contract, ready to be validated chunk by chunk."""

    def __init__(self, schema: Schema, present: list[str]) -> None:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("data").add_dataframe_asset(schema.name)
        self.whole = asset.add_batch_definition_whole_dataframe("whole")
        self.suite = gx.ExpectationSuite(schema.name, expectations(schema, present))

    def checks(self, table: pd.DataFrame) -> list[Check]:
        batch = self.whole.get_batch({"dataframe": table})
        outcomes = batch.validate(self.suite).to_json_dict()["results"]
        return [as_check(outcome, len(table)) for outcome in outcomes]


def scan(schema: Schema, present: list[str]) -> tuple[list[Check], dict[str, Hashes]]:
    """Return the checks of single rows, and hashes of the rows: of all columns and of some."""
    suite = Suite(schema, present)
    keys = hashed_columns(schema, present)
    hashes: dict[str, list[Hashes]] = {key: [] for key in keys}
    sums: dict[tuple[str, str], Check] = {}
    for given in chunks():
        typed, reasons = check_table(given, schema.source)
        broken = (
            pc.sum(pc.not_equal(reasons, "")).as_py() or 0
        )  # rows from which nothing is derived
        typed, _ = checked_table(typed, reasons, schema)
        for found in chunk_checks(schema, present, suite, given, typed, broken):
            place = (found.column, found.rule)
            sums[place] = sums[place].plus(found) if place in sums else found
        for key, parts in hashes.items():
            parts.append(data_checks.hashes(typed, keys[key]))
    return list(sums.values()), {key: np.concatenate(parts) for key, parts in hashes.items()}


def chunk_checks(
    schema: Schema,
    present: list[str],
    suite: Suite,
    given: pa.Table,
    typed: pa.Table,
    broken: int,
) -> Iterator[Check]:
    """Give the checks of some rows; a value of another type is not counted as a missing one too."""
    types = {
        name: check_type(name, schema.used[name], given, typed)
        for name in present
        if name in given.column_names
    }
    for found in suite.checks(typed.to_pandas()):
        if found.rule == NOT_NULL:  # as which a misfit comes out of `check_rows`
            misfits = types.get(found.column)
            yield found.less(misfits.failed_rows if misfits else broken)
        else:
            yield found
    yield from types.values()


def hashed_columns(schema: Schema, present: list[str]) -> dict[str, list[str]]:
    """Return the columns by which rows are compared: all, the key, and what the model learns."""
    learnt = [*schema.features, schema.target]
    keys = {"all": list(schema.source), "unique": list(schema.unique), "learnt": learnt}
    return {key: names for key, names in keys.items() if names and {*names} <= {*present}}
