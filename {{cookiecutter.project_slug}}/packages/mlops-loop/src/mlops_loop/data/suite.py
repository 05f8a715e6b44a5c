"""The Great Expectations suite that the contract implies, on the rows of data/raw.parquet."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.core import ExpectationValidationResult

from mlops_loop.base.files import RAW
from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.data import data_checks, engine
from mlops_loop.data.cast import cells, latest_now
from mlops_loop.data.checks import EXAMPLES, NOT_NULL, Check
from mlops_loop.data.data_checks import Hashes
from mlops_loop.data.derived import check_contract

CHUNK = 500_000  # rows that are checked at a time,
CELLS = 10_000_000  # or as many as hold so many values


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
    """Return the suite for the rows of a table with the columns `present`."""
    rules: list[gxe.Expectation] = []
    for name, column in schema.used.items():
        rules.append(gxe.ExpectColumnToExist(column=name))
        rules += column_expectations(name, column) if name in present else []
        if name == schema.timestamp and name in present:
            common = {"column": name, "mostly": column.mostly}
            latest = latest_now().tz_localize("UTC")  # as `chunk_checks` gives the times
            rules.append(gxe.ExpectColumnValuesToBeBetween(max_value=latest, **common))
    return rules


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
        outcomes = batch.validate(self.suite).results
        return [as_check(outcome, len(table)) for outcome in outcomes]


def as_check(outcome: ExpectationValidationResult, rows: int) -> Check:
    """Return one of Great Expectations' results as a check."""
    given = dict(outcome.expectation_config.kwargs)
    allowed = round(1 - given.pop("mostly", 1), 9)
    column = given.pop("column")
    given.pop("batch_id", None)
    expected = {key: value for key, value in given.items() if value not in (LARGEST, -LARGEST)}
    rule = outcome.expectation_config.type.removeprefix("expect_").replace("_", " ")
    if "between" in rule and isinstance(expected.get("max_value"), datetime):
        rule = "column values not to be in the future"
        expected = {}
    elif "between" in rule and not expected:
        rule = "column values to be finite"
    failed = int(outcome.result.get("unexpected_count", 0 if outcome.success else rows))
    values = outcome.result.get("partial_unexpected_list", []) if rule != NOT_NULL else []
    shown = list(dict.fromkeys(map(str, values)))[:EXAMPLES]
    return Check(column, rule, failed, rows, shown, allowed, expected)


def type_check(name: str, column: Column, given: pa.Table, typed: pa.Table) -> Check:
    """Return the check that all values are of the contract's type."""
    wrong: list[object] = []
    lost = typed[name].null_count > given[name].null_count
    if lost or pa.types.is_floating(given[name].type):
        table = given.select([name])
        misfit = cells(table.schema, {name: column})[name].misfit
        wrong = engine.run(table, f"SELECT c0 FROM rows WHERE {misfit}")["c0"].to_pylist()
    shown = [str(value) for value in dict.fromkeys(wrong)][:EXAMPLES]
    rule = f"column values to be of type {column.type}"
    return Check(name, rule, len(wrong), len(given), shown, round(1 - column.mostly, 9))


def scan(schema: Schema, present: list[str]) -> tuple[list[Check], dict[str, Hashes]]:
    """Return the checks of single rows, and hashes of the rows: of all columns and of some."""
    suite = Suite(schema, present)
    keys = hashed_columns(schema, present)
    hashes: dict[str, list[Hashes]] = {key: [] for key in keys}
    sums: dict[tuple[str, str], Check] = {}
    for given in chunks():
        typed, reasons = check_contract(given, schema)
        for found in chunk_checks(schema, suite, given, typed, int((reasons != "").sum())):
            place = (found.column, found.rule)
            sums[place] = sums[place].plus(found) if place in sums else found
        for key, parts in hashes.items():
            parts.append(data_checks.hashes(typed, keys[key]))
    return list(sums.values()), {key: np.concatenate(parts) for key, parts in hashes.items()}


def chunks() -> Iterator[pa.Table]:
    """Give the rows of data/raw.parquet, some at a time."""
    file = pq.ParquetFile(RAW)
    for batch in file.iter_batches(min(CHUNK, CELLS // file.metadata.num_columns)):
        yield pa.table(batch)
    if not file.metadata.num_rows:
        yield file.schema_arrow.empty_table()


def chunk_checks(
    schema: Schema, suite: Suite, given: pa.Table, typed: pa.Table, broken: int
) -> Iterator[Check]:
    """Give the checks of some rows, of which so many are broken: nothing is derived from them.

    A value of another type comes as a missing one from the cast, but does not count as one here.
    """
    types = {
        name: type_check(name, column, given, typed)
        for name, column in schema.source.items()
        if name in given.column_names
    }
    table = typed.to_pandas()
    if (time := schema.timestamp) in table:  # without a zone each is compared on its own
        table[time] = table[time].dt.tz_localize("UTC")
    for found in suite.checks(table):
        if found.rule == NOT_NULL:
            misfits = types[found.column].failed_rows if found.column in types else broken
            yield replace(found, failed_rows=found.failed_rows - misfits)
        else:
            yield found
    yield from types.values()


def hashed_columns(schema: Schema, present: list[str]) -> dict[str, list[str]]:
    """Return the columns by which rows are compared: all, the key, and what the model learns."""
    learnt = [*schema.features, schema.target]
    keys = {"all": list(schema.source), "unique": list(schema.unique), "learnt": learnt}
    return {key: names for key, names in keys.items() if names and {*names} <= {*present}}
