"""Validate: hold the data against the contract with Great Expectations; refuse what breaks it."""

from textwrap import shorten
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

from . import files
from .errors import Refusal, run
from .files import RAW, REPORTS
from .schema import Column, Schema, load_schema

NUMBERS = ["float64", "float32", "int64", "int32"]  # pandas holds integers with gaps as floats
EXAMPLES = 5  # offending values shown for a failed check
TYPES = {"boolean": "bool", "category": "str", "timestamp": "datetime64[ns]"}  # any precision


def column_expectations(name: str, column: Column) -> list[Any]:
    """Return what the contract expects of one column. Change this first."""
    # A nullable column may have gaps, but one with hardly a value is broken.
    filled = 0.01 if column.nullable else 1
    rules: list[Any] = [gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=filled)]
    if column.type in ("number", "integer"):
        rules.append(gxe.ExpectColumnValuesToBeInTypeList(column=name, type_list=NUMBERS))
    elif column.type in TYPES:
        rules.append(gxe.ExpectColumnValuesToBeOfType(column=name, type_=TYPES[column.type]))
    if column.categories is not None:
        rules.append(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.categories)))
    if (column.minimum, column.maximum) != (None, None):
        limits = {"column": name, "min_value": column.minimum, "max_value": column.maximum}
        rules.append(gxe.ExpectColumnValuesToBeBetween(**limits))
    return rules


def expectations(schema: Schema, present: list[str]) -> list[Any]:
    """Return the suite that the contract implies for a table with the columns `present`."""
    rules: list[Any] = [gxe.ExpectTableRowCountToBeBetween(min_value=schema.min_rows)]
    for name, column in schema.columns.items():
        if column.role != "ignored":
            rules.append(gxe.ExpectColumnToExist(column=name))
            rules += column_expectations(name, column) if name in present else []
    if schema.unique and set(schema.unique) <= set(present):
        rules.append(gxe.ExpectCompoundColumnsToBeUnique(column_list=list(schema.unique)))
    return rules


def check(table: pd.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """Return a record for each expectation: column, rule, passed, failed_rows and examples."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset(schema.name)
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": table})
    suite = gx.ExpectationSuite(schema.name, expectations(schema, list(table.columns)))
    return [record(outcome) for outcome in batch.validate(suite).to_json_dict()["results"]]


def record(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return the part of one of Great Expectations' results that a reader needs."""
    config, result = outcome["expectation_config"], outcome["result"]
    expected = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    where = expected.pop("column", None) or ", ".join(expected.pop("column_list", ["the table"]))
    found = result.get("partial_unexpected_list") or [result.get("observed_value")]
    shown = dict.fromkeys(str(value) for value in found if value is not None)
    return {
        "column": where,
        "rule": config["type"].removeprefix("expect_").replace("_", " "),
        "expected": expected,
        "passed": outcome["success"],
        "failed_rows": result.get("unexpected_count", 0),
        "examples": list(shown)[:EXAMPLES],
    }


def describe(check: dict[str, Any]) -> str:
    """Return a failed check in one line."""
    limits = shorten(", ".join(f"{key} {value}" for key, value in check["expected"].items()), 70)
    rows = f"{check['failed_rows']:,} rows" if check["failed_rows"] else ""
    examples = f"for example {', '.join(check['examples'])}" if check["examples"] else ""
    return f"  {check['column']}: " + ", ".join(filter(None, (check["rule"], limits, rows, examples)))


def main() -> None:
    table, folder = files.read_table(RAW), REPORTS / "data"
    checks = sorted(check(table, load_schema()), key=lambda check: check["passed"])
    failed = [check for check in checks if not check["passed"]]
    summary = f"{len(checks) - len(failed)} of {len(checks)} checks passed on {len(table):,} rows"
    files.write_json(folder / "validation.json", {"passed": not failed, "rows": len(table), "checks": checks})
    listed = pd.DataFrame(checks).astype(str).replace({"{}": "", "[]": ""}).to_html(index=False)
    files.write_page(folder / "validation.html", "Data validation", f"<p>{summary}</p>", listed)
    if failed:
        where = f"the data breaks schema.yaml: {summary}; see {folder}/validation.html"
        raise Refusal("\n".join([where, *map(describe, failed)]))
    print(f"validate: {summary}")


if __name__ == "__main__":
    run(main)
