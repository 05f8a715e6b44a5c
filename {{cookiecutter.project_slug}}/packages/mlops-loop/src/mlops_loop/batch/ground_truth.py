"""Record ground truth from a file with the columns prediction_id and value."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import writing
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.data.cast import check_table
from mlops_loop.data.source.read import batches
from mlops_loop.prediction_log.connection import open_log, unusable
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.scoring.bundle import open_bundle

CHUNK = 10_000  # outcomes in one transaction
NAMES = ["prediction_id", "value"]

Rows = list[tuple[str, Value]]  # those with a reason have a third value


class Counts(NamedTuple):
    recorded: int
    repeated: int
    corrected: int
    unknown: int
    rejected: int


def record_file(source: str) -> Counts:
    """Record the outcomes in a file or URL; to record the same again changes nothing.

    Those of unknown predictions, and those that break the contract, go to files beside it.
    """
    settings = load_settings()
    schema = open_bundle(Path(settings.bundle)).schema
    engine = open_log(settings.prediction_log_url)
    counts = [0, 0, 0]
    unknown: Rows = []
    rejected: Rows = []
    for table in batches(source, schema.missing):
        good, bad = divide(table, schema)
        rejected += bad
        for start in range(0, len(good), CHUNK):
            part = good[start : start + CHUNK]
            try:
                done = record_ground_truth(engine, part)
            except SQLAlchemyError as error:
                raise unusable(error) from None
            counts = [sum(pair) for pair in zip(counts, done[:3], strict=True)]
            unknown += [part[position] for position in done.unknown]
    write_rows(sibling(source, "unknown"), NAMES, unknown)
    write_rows(sibling(source, "rejects"), [*NAMES, "reason"], rejected)
    recorded, repeated, corrected = counts
    return Counts(recorded, repeated, corrected, len(unknown), len(rejected))


def divide(table: pa.Table, schema: Schema) -> tuple[Rows, Rows]:
    """Return the rows that the contract allows, in its types, and the others with the reasons."""
    if missing := [name for name in NAMES if name not in table.column_names]:
        raise Failure(f"the column {missing[0]!r} is missing: outcomes have {' and '.join(NAMES)}")
    # What came true may lie beyond what the contract expects, but not be missing.
    changes = {"minimum": None, "maximum": None, "nullable": False}
    columns = {
        "prediction_id": Column.model_validate({"type": "id", "role": "id"}),
        "value": schema.columns[schema.target].model_copy(update=changes),
    }
    rows = table.select(NAMES)
    typed, reasons = check_table(rows, columns)
    good = pa.array(reasons == "", pa.bool_())
    rejected = rows.append_column("reason", pa.array(reasons, pa.string()))
    return as_rows(typed.filter(good)), as_rows(rejected.filter(pc.invert(good)))


def as_rows(table: pa.Table) -> Rows:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def write_rows(path: Path, names: Sequence[str], rows: Rows) -> None:
    """Write a CSV file, or remove the one of the last time if there are no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with writing(path) as tmp_path, tmp_path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def sibling(source: str, kind: str) -> Path:
    """Return where outcomes go that were not recorded: beside the file, or here if it is a URL."""
    path = Path(Path(urlsplit(source).path).name) if "://" in source else Path(source)
    return path.with_name(f"{path.stem}.{kind}.csv")
