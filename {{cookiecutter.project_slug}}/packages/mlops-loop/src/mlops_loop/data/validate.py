"""Validate the data against the contract and the last accepted data; refuse what breaks them."""

import json
from collections.abc import Mapping

import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel

from mlops_loop.base import files
from mlops_loop.base.errors import Refusal
from mlops_loop.base.files import ACCEPTED, RAW, REPORTS
from mlops_loop.base.params import SplitParams, load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import checks, tables, validation_page
from mlops_loop.data.cast import check_rows
from mlops_loop.data.checks import Check
from mlops_loop.data.data_checks import Distribution, column_distribution
from mlops_loop.data.derived import checked
from mlops_loop.data.suite import scan

SAMPLE = 100_000  # rows from which leaks and shifts are measured


class Accepted(BaseModel, frozen=True):
    """The data that passed last, as accepted.json has it."""

    table: str = ""
    columns: dict[str, Distribution] = {}


def check(
    schema: Schema, params: SplitParams, sample: pd.DataFrame, accepted: Mapping[str, Distribution]
) -> list[Check]:
    """Return the checks of data/raw.parquet, those that failed first; `sample` is of its rows."""
    rows = pq.read_metadata(RAW).num_rows
    names = pq.read_schema(RAW).names
    present = [name for name in schema.used if name in names or name in schema.derived]
    found, hashes = scan(schema, present)
    found += checks.table_checks(schema, hashes, params)
    found += checks.leaks(schema, sample, rows)
    found += checks.shifts(schema, sample, rows, accepted)
    return sorted(found, key=lambda one: one.passed)


def last_accepted(schema: Schema) -> dict[str, Distribution]:
    """Return the distributions of the data that passed last, by column; none of another table."""
    found = files.read_json(ACCEPTED) if ACCEPTED.is_file() else {}
    accepted = Accepted.model_validate(found)
    return accepted.columns if accepted.table == schema.name else {}


def accept(schema: Schema, sample: pd.DataFrame, rows: int) -> None:
    """Remember how the data is distributed: what comes next is compared with it."""
    # A line for each column, for those who read a diff.
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(found.model_dump(exclude_none=True))}"
        for name, column in checks.watched(schema, sample).items()
        if (found := column_distribution(sample[name], column.type))
    )
    about = f'"table": {json.dumps(schema.name)},\n"rows": {rows},\n"columns":'
    files.write_text(ACCEPTED, "{\n" + about + " {\n" + lines + "\n}\n}\n")


def main() -> None:
    schema = load_schema()
    params = load_params()
    rows = pq.read_metadata(RAW).num_rows
    sample, _ = checked(*check_rows(tables.read_sample(RAW, SAMPLE), schema.source), schema)
    found = check(schema, params.split, sample, last_accepted(schema))
    failed = [one for one in found if not one.passed]
    report = {"passed": not failed, "rows": rows, "checks": [one.as_json() for one in found]}
    files.write_json(REPORTS / "data/validation.json", report)
    validation_page.write(found, rows)
    summary = f"{len(found) - len(failed)} of {len(found)} checks passed on {rows:,} rows"
    if failed:
        where = f"the data breaks schema.yaml: {summary}; see {REPORTS}/data/validation.html"
        if any("max_shift" in one.expected for one in failed):
            where += f". To accept a shift, delete {ACCEPTED} or raise max_shift in schema.yaml"
        raise Refusal("\n".join([where, *(one.describe() for one in failed)]))
    accept(schema, sample, rows)
    print(f"validate: {summary}")
