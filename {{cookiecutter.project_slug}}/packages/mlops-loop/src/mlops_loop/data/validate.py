"""Validate the data against the contract and the last accepted data; refuse what breaks them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base import files
from mlops_loop.base.errors import Refusal
from mlops_loop.base.files import ACCEPTED, RAW, REPORTS
from mlops_loop.base.params import SplitParams, load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import checks, tables, validation_page
from mlops_loop.data.checks import GOOD, Check
from mlops_loop.data.data_checks import Distribution, column_distribution
from mlops_loop.data.derived import typed_batches

SAMPLE = 100_000  # rows from which leaks and shifts are measured


@contextmanager
def typed_file(schema: Schema) -> Iterator[Path]:
    """Give a file with the rows of data/raw.parquet in the contract's types, with derived columns,
    and with a column GOOD that says which rows keep the contract.
    """
    with TemporaryDirectory(dir=RAW.parent, prefix=".typed-") as folder:
        path = Path(folder) / "typed.parquet"
        with ExitStack() as opened:
            writer = None
            for typed, reasons in typed_batches(schema):
                table = typed.append_column(GOOD, pa.array(reasons == "", pa.bool_()))
                writer = writer or opened.enter_context(pq.ParquetWriter(path, table.schema))
                writer.write_table(table)
        yield path


def check(
    schema: Schema,
    params: SplitParams,
    typed: Path,
    sample: pd.DataFrame,
    accepted: Mapping[str, Distribution],
) -> list[Check]:
    """Return the checks of the data, those that failed first; `sample` is of the typed rows."""
    rows = pq.read_metadata(typed).num_rows
    found = [
        *checks.value_checks(schema, typed),
        *checks.type_checks(schema),
        *checks.table_checks(schema, typed, params),
        *checks.leaks(schema, sample, rows),
        *checks.shifts(schema, sample, rows, accepted),
    ]
    return sorted(found, key=lambda one: one.passed)


def last_accepted(schema: Schema) -> dict[str, Distribution]:
    """Return the distributions of the data that passed last, by column; none of another table."""
    found = files.read_json(ACCEPTED) if ACCEPTED.is_file() else {}
    columns = found["columns"] if found.get("table") == schema.name else {}
    return {name: Distribution.model_validate(column) for name, column in columns.items()}


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
    with typed_file(schema) as typed:
        rows = pq.read_metadata(typed).num_rows
        sample = tables.read_sample(typed, SAMPLE).drop(columns=GOOD)
        found = check(schema, params.split, typed, sample, last_accepted(schema))
    failed = [one for one in found if not one.passed]
    report = {"passed": not failed, "rows": rows, "checks": [one.as_json() for one in found]}
    files.write_json(REPORTS / "data/validation.json", report)
    summary = f"{len(found) - len(failed)} of {len(found)} checks passed"
    validation_page.write(found, rows, summary)
    if failed:
        summary += f" on {rows:,} rows"
        where = f"the data breaks schema.yaml: {summary}; see {REPORTS}/data/validation.html"
        if any("max_shift" in one.expected for one in failed):
            where += f". To accept a shift, delete {ACCEPTED} or raise max_shift in schema.yaml"
        raise Refusal("\n".join([where, *(one.describe() for one in failed)]))
    accept(schema, sample, rows)
    print(f"validate: {summary} on {rows:,} rows")
