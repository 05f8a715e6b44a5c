"""Validate: hold the data against the contract and the last accepted data; refuse what breaks
them.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from textwrap import shorten
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import ACCEPTED, RAW, REPORTS
from mlops_loop.base.params import SplitParams, load_params
from mlops_loop.contract.schema import LARGEST, Column, Schema, load_schema
from mlops_loop.data import data_checks, split, tables
from mlops_loop.data.cast import check_rows, latest_now
from mlops_loop.data.derived import checked
from mlops_loop.reporting import page

CHUNK = 500_000  # rows that are checked at a time,
CELLS = 10_000_000  # or as many as hold so many values
SAMPLE = 100_000  # rows from which leaks and shifts are measured
EXAMPLES = 5  # offending values shown for a failed check
TABLE = "the table"

Check = dict[str, Any]  # column, rule, expected, allowed, passed, failed_rows, score and examples


def column_expectations(name: str, column: Column) -> list[Any]:
    """Return what the contract expects of each value in a column. Change this first."""
    filled = 1 - column.max_null if column.nullable else column.mostly
    rules: list[Any] = [gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=filled)]
    common = {"column": name, "mostly": column.mostly}
    if column.categories is not None and not column.allow_unknown:
        rules.append(gxe.ExpectColumnValuesToBeInSet(value_set=list(column.categories), **common))
    if column.type in ("number", "integer"):
        low, high = column.limits
        rules.append(gxe.ExpectColumnValuesToBeBetween(min_value=low, max_value=high, **common))
    return rules


def expectations(schema: Schema, present: list[str]) -> list[Any]:
    """Return the suite that the contract implies for the rows of a table with the columns
    `present`.
    """
    rules: list[Any] = []
    for name, column in schema.used.items():
        rules.append(gxe.ExpectColumnToExist(column=name))
        rules += column_expectations(name, column) if name in present else []
        if name == schema.timestamp and name in present:
            common = {"column": name, "mostly": column.mostly}
            rules.append(gxe.ExpectColumnValuesToBeBetween(max_value=latest_now(), **common))
    return rules


def chunks() -> Iterator[pd.DataFrame]:
    """Give the rows of data/raw.parquet, some at a time."""
    file = pq.ParquetFile(RAW)
    rows = min(CHUNK, CELLS // file.metadata.num_columns)
    count = -(-file.metadata.num_rows // rows)
    hidden, console = count < 2 or not sys.stderr.isatty(), Console(stderr=True)
    for batch in track(file.iter_batches(rows), "rows", count, console=console, disable=hidden):
        yield batch.to_pandas()
    if not count:
        yield file.schema_arrow.empty_table().to_pandas()


def record(
    column: str,
    rule: str,
    expected: Any,
    failed: int,
    rows: int,
    examples: Iterable[Any],
    **more: float,
) -> Check:
    """Return a check that is passed if at most the share `allowed` of the rows failed."""
    shown = list(dict.fromkeys(str(value) for value in examples if value is not None))[:EXAMPLES]
    facts = {
        "column": column,
        "rule": rule,
        "expected": expected,
        "allowed": 0.0,
        "score": None,
        **more,
    }
    return {**facts, "failed_rows": int(failed), "rows": rows, "examples": shown}


def outcome_of(outcome: dict[str, Any], rows: int) -> Check:
    """Return one of Great Expectations' results as a check."""
    config, result = outcome["expectation_config"], outcome["result"]
    expected = {
        key: value for key, value in config["kwargs"].items() if value not in (LARGEST, -LARGEST)
    }
    column, mostly = expected.pop("column"), expected.pop("mostly", 1)
    expected.pop("batch_id", None)
    rule = config["type"].removeprefix("expect_").replace("_", " ")
    if "between" in rule and isinstance(expected.get("max_value"), str):
        rule, expected = "column values not to be in the future", {}
    elif "between" in rule and not expected:
        rule = "column values to be finite"
    failed = result.get("unexpected_count", 0 if outcome["success"] else rows)
    examples = () if "null" in rule else result.get("partial_unexpected_list", ())
    return record(column, rule, expected, failed, rows, examples, allowed=round(1 - mostly, 9))


def of_type(name: str, column: Column, given: pd.Series, typed: pd.Series) -> Check:
    """Return the check that all values are of the contract's type."""
    wrong, allowed = given[typed.isna() & given.notna()], round(1 - column.mostly, 9)
    rule = f"column values to be of type {column.type}"
    return record(
        name, rule, {}, len(wrong), len(given), wrong.unique()[:EXAMPLES], allowed=allowed
    )


def scan(schema: Schema, present: list[str]) -> tuple[list[Check], dict[str, np.ndarray]]:
    """Return the checks on single rows, and hashes of the rows: of all their columns and of
    some.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset(schema.name)
    whole = asset.add_batch_definition_whole_dataframe("whole")
    suite = gx.ExpectationSuite(schema.name, expectations(schema, present))
    learnt = [*schema.features, schema.target]
    keys = {"all": list(schema.source), "unique": list(schema.unique), "learnt": learnt}
    keys = {key: names for key, names in keys.items() if names and {*names} <= {*present}}
    hashes: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    sums: dict[tuple[str, str], Check] = {}
    for given in chunks():
        typed, reasons = check_rows(given, schema.source)
        broken = int((reasons != "").sum())  # rows from which nothing is derived
        typed, _ = checked(typed, reasons, schema)
        types = {
            name: of_type(name, schema.used[name], given[name], typed[name])
            for name in present
            if name in given
        }
        outcomes = whole.get_batch({"dataframe": typed}).validate(suite).to_json_dict()["results"]
        for found in [*(outcome_of(outcome, len(given)) for outcome in outcomes), *types.values()]:
            if (
                found["rule"] == "column values to not be null"
            ):  # as which a misfit comes out of `check_rows`
                misfits = types.get(found["column"])
                found["failed_rows"] -= misfits["failed_rows"] if misfits else broken
            total = sums.setdefault(
                (found["column"], found["rule"]), {**found, "failed_rows": 0, "rows": 0}
            )
            total["failed_rows"] += found["failed_rows"]
            total["rows"] += found["rows"]
            total["examples"] = list(dict.fromkeys(total["examples"] + found["examples"]))[
                :EXAMPLES
            ]
        for key, parts in hashes.items():
            parts.append(data_checks.hashes(typed, keys[key]))
    return list(sums.values()), {key: np.concatenate(parts) for key, parts in hashes.items()}


def rows_at(places: np.ndarray, names: Iterable[str]) -> list[str]:
    """Return the first of the rows of data/raw.parquet at `places`, as text."""
    file, shown = pq.ParquetFile(RAW), []
    ends = np.cumsum(
        [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    )
    for place in places[:EXAMPLES]:
        group = int(np.searchsorted(ends, place, "right"))
        table = file.read_row_group(group)
        row = int(place - ends[group] + len(table))
        shown.append(", ".join(str(table[name][row]) for name in names))
    return shown


def repeats(schema: Schema, hashes: dict[str, np.ndarray], params: SplitParams) -> Iterator[Check]:
    """Give the checks that rows do not repeat each other: at all, in their key, or between
    windows.
    """
    if "all" in hashes:
        rule, rows = "rows not to be duplicated", hashes["all"]
        found = np.flatnonzero(data_checks.repeated(rows))
        examples, allowed = rows_at(found, schema.source), schema.max_duplicates
        yield record(TABLE, rule, {}, len(found), len(rows), examples, allowed=allowed)
    if "unique" in hashes:
        where, rows = ", ".join(schema.unique), hashes["unique"]
        found = np.flatnonzero(data_checks.repeated(rows))
        yield record(
            where, "columns to be unique", {}, len(found), len(rows), rows_at(found, schema.unique)
        )
    if "learnt" in hashes:
        try:
            windows = split.assign(schema, params)
        except Failure:
            return  # of which the stage `split` will tell
        rule = "test rows not to be in the training window"
        rows, test = hashes["learnt"], np.flatnonzero(windows == 2)
        found = test[np.isin(rows[test], rows[windows == 0])]
        known = [name for name in [*schema.features, schema.target] if name in schema.source]
        examples, allowed = rows_at(found, known), schema.max_overlap
        yield record(TABLE, rule, {}, len(found), len(test), examples, allowed=allowed)


def lacking(schema: Schema, rows: int) -> Check:
    """Return the check that every class of the target occurs."""
    found = pq.ParquetFile(RAW).read([schema.target])[schema.target].unique().to_pylist()
    names = [name for name in schema.classes if name not in found]
    return record(schema.target, "every class to occur", {}, rows if names else 0, rows, names)


def leaks(schema: Schema, sample: pd.DataFrame, rows: int) -> Iterator[Check]:
    """Give the checks that no feature alone tells the target."""
    target, limit = schema.target, schema.max_leakage
    found = {}
    if target in sample:
        found = data_checks.leaks(sample, schema.features, target, schema.task == "regression")
    for name, score in found.items():
        leaking = score >= limit
        pairs = sample[[name, target]].dropna().head(EXAMPLES if leaking else 0).to_numpy()
        examples = [f"{value} where {target} is {truth}" for value, truth in pairs]
        rule, expected = f"column not to tell {target}", {"max_leakage": limit}
        yield record(name, rule, expected, rows * leaking, rows, examples, score=round(score, 4))


def shifts(
    schema: Schema, sample: pd.DataFrame, rows: int, accepted: dict[str, Any]
) -> Iterator[Check]:
    """Give the checks that each column is distributed as in the data that was accepted last.

    A column that was not there, or another one, passes. Scores are told of shifts only, so that the
    same data gives the same report, whatever was accepted before.
    """
    before = accepted.get("columns", {})
    for name, column in profiled(schema, sample).items():
        rule, expected = (
            "column to be distributed as before",
            {"max_shift": column.max_shift or schema.max_shift},
        )
        found = record(name, rule, expected, 0, rows, [])
        if before.get(name, {}).get("type") == column.type:
            score, moved, examples = data_checks.shift(before[name], sample[name])
            if score > expected["max_shift"]:
                failed, told = max(1, round(rows * moved)), round(score, 4)
                found = record(name, rule, expected, failed, rows, examples, score=told)
        yield found


def profiled(schema: Schema, sample: pd.DataFrame) -> dict[str, Column]:
    """Return the columns whose distribution is watched."""
    kinds = ("number", "integer", "boolean", "category")
    found = {
        name: column
        for name, column in schema.used.items()
        if name in sample and column.role != "id"
    }
    return {name: column for name, column in found.items() if column.type in kinds}


def last_accepted(schema: Schema) -> dict[str, Any]:
    """Return how the data was distributed that passed last; nothing if there is none, or of another
    table.
    """
    accepted = files.read_json(ACCEPTED) if ACCEPTED.is_file() else {}
    return accepted if accepted.get("table") == schema.name else {}


def accept(schema: Schema, sample: pd.DataFrame, rows: int) -> None:
    """Remember how the data is distributed: what comes next is compared with it."""
    columns = {}
    for name, column in profiled(schema, sample).items():
        profile = data_checks.column_distribution(
            sample[name], column.type in ("number", "integer")
        )
        columns[name] = {"type": column.type, **profile}
    # A line for each column, for those who read a diff.
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(profile)}" for name, profile in columns.items()
    )
    about = f'"table": {json.dumps(schema.name)},\n"rows": {rows},\n"columns":'
    files.write_text(ACCEPTED, "{\n" + about + " {\n" + lines + "\n}\n}\n")


def check(
    schema: Schema, params: SplitParams, sample: pd.DataFrame, accepted: dict[str, Any]
) -> list[Check]:
    """Return the checks of data/raw.parquet, of which `sample` holds some rows; first those that
    failed.
    """
    rows, names = pq.read_metadata(RAW).num_rows, pq.read_schema(RAW).names
    present = [name for name in schema.used if name in names or name in schema.derived]
    checks, hashes = scan(schema, present)
    few, expected = max(0, schema.min_rows - rows), {"min_rows": schema.min_rows}
    checks.append(record(TABLE, "row count to be enough", expected, few, rows, [f"{rows:,} rows"]))
    checks += [lacking(schema, rows)] if schema.target in names and schema.classes else []
    checks += [*repeats(schema, hashes, params), *leaks(schema, sample, rows)]
    checks += shifts(schema, sample, rows, accepted)
    for found in checks:
        found["passed"] = found["failed_rows"] <= found["allowed"] * found["rows"] + 1e-6
    return sorted(checks, key=lambda found: found["passed"])


def describe(check: Check) -> str:
    """Return a failed check in one line."""
    limits = shorten(", ".join(f"{key} {value}" for key, value in check["expected"].items()), 70)
    score = "" if check["score"] is None else f"measured {check['score']}"
    allowed = f" (allowed {check['allowed']:.2%})" if check["allowed"] else ""
    count = f"{check['failed_rows']:,} rows{allowed}"
    examples = f"for example {'; '.join(shorten(text, 120) for text in check['examples'])}"
    parts = (check["rule"], limits, score, count, examples if check["examples"] else "")
    return f"  {check['column']}: " + ", ".join(filter(None, parts))


def write_reports(checks: list[Check], summary: str, rows: int) -> None:
    folder, passed = REPORTS / "data", all(check["passed"] for check in checks)
    files.write_json(folder / "validation.json", {"passed": passed, "rows": rows, "checks": checks})
    columns = [
        "column",
        "rule",
        "expected",
        "allowed",
        "score",
        "failed_rows",
        "examples",
        "passed",
    ]
    listed = pd.DataFrame(checks)[columns]
    for name in ("expected", "examples"):
        listed[name] = listed[name].map(lambda value: shorten(str(value)[1:-1], 200))
    listed["allowed"] = listed["allowed"].map("{:.2%}".format).replace("0.00%", "")
    listed["passed"] = listed["passed"].map({True: "yes", False: "no"})
    listed.columns = [name.replace("_", " ") for name in listed]
    notes = f"<p>{summary}. Distributions are compared with the data that was accepted last.</p>"
    table = listed.to_html(index=False, na_rep="")
    page.write_page(folder / "validation.html", "Data validation", notes, table)


def main() -> None:
    schema, params = load_schema(), load_params()
    sample, _ = checked(*check_rows(tables.read_sample(RAW, SAMPLE), schema.source), schema)
    accepted = last_accepted(schema)
    checks = check(schema, params.split, sample, accepted)
    failed, rows = (
        [check for check in checks if not check["passed"]],
        pq.read_metadata(RAW).num_rows,
    )
    summary = f"{len(checks) - len(failed)} of {len(checks)} checks passed on {rows:,} rows"
    write_reports(checks, summary, rows)
    if failed:
        where = f"the data breaks schema.yaml: {summary}; see {REPORTS}/data/validation.html"
        if any("max_shift" in check["expected"] for check in failed):
            where += f". To accept a shift, delete {ACCEPTED} or raise max_shift in schema.yaml"
        raise Refusal("\n".join([where, *map(describe, failed)]))
    accept(schema, sample, rows)
    print(f"validate: {summary}")
