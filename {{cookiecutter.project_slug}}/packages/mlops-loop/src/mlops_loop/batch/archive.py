"""Archive: old days of the prediction log as Parquet, a file for each.

They are called day=2026-11-28/predictions.parquet, as Hive's partitions are. Inputs have their own
names, as `score` reads them; what the log adds begins with `prediction_` or `outcome`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.batch import storage
from mlops_loop.data.source.remote import reached
from mlops_loop.prediction_log.ids import DAY, midnight
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS

FILE = "predictions.parquet"
LOGGED = [column for column in PREDICTIONS.columns if column.name != "features"]
TIME = pa.timestamp("us", tz="UTC")
NAMES = [*(f"prediction_{column.name}" for column in LOGGED), "outcome", "outcome_time"]
TYPES = {"prediction_time": TIME, "outcome_time": TIME, "prediction_latency_ms": pa.float64()}
OURS = pa.schema([(name, TYPES.get(name, pa.string())) for name in NAMES])
JSON = ("prediction_output", "outcome")
KINDS = {bool: pa.bool_(), int: pa.float64(), float: pa.float64(), str: pa.string()}


class Exported(NamedTuple):
    """A day of the log, how many rows it has, and its file."""

    start: datetime
    rows: int
    file: str
    kept: bool  # it was there, with more rows


def export(engine: sa.Engine, before: datetime, folder: str) -> Iterator[Exported]:
    """Write the days that ended before then, the oldest first; give each when its file is whole.

    A file with more rows than the log has of that day, which was pruned since, stays.
    """
    folder = storage.plain(folder)
    start = datetime.min.replace(tzinfo=UTC)
    end = midnight(before.astimezone(UTC).date())
    first = sa.select(sa.func.min(PREDICTIONS.c.time))
    while True:
        with engine.connect() as connection:
            here = (PREDICTIONS.c.time >= start) & (PREDICTIONS.c.time < end)
            if (oldest := connection.scalar(first.where(here))) is None:
                return
            start = midnight(oldest.date())
            target = f"{folder}/day={start:%Y-%m-%d}/{FILE}"
            with storage.workshop(target) as workshop:
                made, rows = write_day(connection, start, workshop)
                kept = rows < rows_in(target)
                if not kept:
                    storage.publish({FILE: made}, target, is_folder=False)
        yield Exported(start, rows, target, kept)
        start += DAY


def export_and_prune(engine: sa.Engine, before: datetime, folder: str) -> Iterator[Exported]:
    """Delete each day when its file is whole, and has all of it."""
    count = sa.select(sa.func.count()).select_from(PREDICTIONS)
    for done in export(engine, before, folder):
        if done.kept:
            text = f"{done.file} has more rows than the log: another log's? Name another folder"
            raise Failure(text)
        end = done.start + DAY
        with engine.connect() as connection:
            if connection.scalar(count.where(PREDICTIONS.c.time < end)) != done.rows:
                day = f"{done.start:%Y-%m-%d}"
                raise Failure(f"rows of {day} came in while it was exported: run it again")
        prune(engine, end)
        yield done


def rows_in(place: str) -> int:
    """Return the rows of a Parquet file; none if it is not there."""
    if "://" not in place:
        return int(pq.read_metadata(place).num_rows) if Path(place).exists() else 0
    with reached(place) as (system, path):
        if not system.exists(path):
            return 0
        with system.open(path) as file:
            return int(pq.read_metadata(file).num_rows)


def write_day(connection: sa.Connection, start: datetime, folder: Path) -> tuple[Path, int]:
    """Write the rows of a day, in parts and then as one file: only all of it tells the types."""
    inside = (PREDICTIONS.c.time >= start) & (PREDICTIONS.c.time < start + DAY)
    joined = sa.outerjoin(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == PREDICTIONS.c.id)
    truth = OUTCOMES.c.value, OUTCOMES.c.time.label("recorded")
    query = sa.select(*LOGGED, *truth, PREDICTIONS.c.features).select_from(joined).where(inside)
    streamed = connection.execution_options(yield_per=BATCH // 10)
    parts: list[Path] = []
    for rows in streamed.execute(query.order_by(PREDICTIONS.c.time)).partitions(BATCH):
        parts.append(folder / f"part-{len(parts)}.parquet")
        pq.write_table(to_table(rows), parts[-1])
    schema = unify([pq.read_schema(part) for part in parts])
    count = 0
    with pq.ParquetWriter(folder / FILE, schema, compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part)
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(len(table), field.type))
            writer.write_table(table.select(schema.names).cast(schema))
            count += len(table)
    return folder / FILE, count


def to_table(rows: Sequence[Sequence[object]]) -> pa.Table:
    *logged, features = zip(*rows, strict=True)
    ours = {
        field.name: pa.array(map(spelled(field.name), values), field.type)
        for field, values in zip(OURS, logged, strict=True)
    }
    names = dict.fromkeys(name for given in features for name in given)
    if clash := names.keys() & ours.keys():
        raise Failure(f"the input {min(clash)!r} has the name of a column that the log exports")
    return pa.table(
        {name: column([given.get(name) for given in features]) for name in names} | ours
    )


def spelled(name: str) -> Callable[[object], object]:
    """Return how values of a column of the log are written: JSON as its text."""
    return as_json if name in JSON else lambda value: value


def as_json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def column(values: Sequence[object]) -> pa.Array:
    """Return values of JSON as one type: texts, if a contract that changed left two."""
    kinds = {KINDS.get(type(value), pa.string()) for value in values if value is not None}
    if len(kinds) < 2 and pa.string() not in kinds:
        return pa.array(values, kinds.pop() if kinds else pa.null())
    return pa.array([v if isinstance(v, str) else as_json(v) for v in values], pa.string())


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for field in (field for schema in schemas for field in schema):
        known = types.setdefault(field.name, field.type)
        if known == pa.null():
            types[field.name] = field.type
        elif field.type not in (pa.null(), known):
            types[field.name] = pa.string()
    return pa.schema(list(types.items()))
