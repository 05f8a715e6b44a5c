"""Ingest: read the source and keep the columns of the contract, in the window asked for."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import IngestParams, format_source, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data.cast import Cell, cells
from mlops_loop.data.engine import Rows, text
from mlops_loop.data.source.read import Unread, batches, opened


class Misfit(Failure):
    """The source lacks columns, or values in them do not fit their types."""

    def __init__(self, source: str, names: Collection[str]) -> None:
        super().__init__(f"{source} has no column {min(names)!r} that fits schema.yaml")
        self.names = names


def table(schema: Schema, params: IngestParams) -> Iterable[pa.Table]:
    """Return what the project's reader gives, or the file, URL or query itself."""
    reader = project.load("reader")
    return reader(schema, params) if reader else batches(params.source, schema.missing)


@contextmanager
def selected(
    schema: Schema,
    params: IngestParams,
    columns: Mapping[str, Column],
    as_text: Collection[str] = (),
    threads: int = 0,
) -> Iterator[tuple[Rows, str, list[str]]]:
    """Give rows, the query for columns of the contract in their types, or `as_text`, of those in
    the window, and the columns' names.

    Columns that are missing and rows without a time are left for `validate` to report. The query
    fails if a value does not fit its column's type: then Misfit is raised.
    """
    try:
        with opened(table(schema, params), threads) as rows:
            found = cells(rows, columns)
            if not found:
                what = "has none of the columns in schema.yaml"
                raise Failure(f"{format_source(params.source)} {what}")
            parts = [
                f"{cell.source}::VARCHAR" if name in as_text else strict(cell)
                for name, cell in found.items()
            ]
            shown = ", ".join(f"{part} AS t{place}" for place, part in enumerate(parts))
            time = found.get(schema.timestamp or "")
            sql = f"SELECT {shown} FROM rows{inside(params, time.typed) if time else ''}"
            yield rows, sql, list(found)
    except Unread:
        if names := misfits(schema, params, columns):
            raise Misfit(format_source(params.source), names) from None
        raise


def strict(cell: Cell) -> str:
    """Return a value in its type; the query fails if it does not fit."""
    return f"coalesce({cell.typed}, CASE WHEN {cell.given} THEN error('a misfit') END)"


def inside(params: IngestParams, time: str) -> str:
    """Return the condition that a row is in the window, or has no time."""
    ends = [(">=", params.start), ("<", params.end)]
    bounds = [f"{time} {sign} {text(str(end))}::TIMESTAMP" for sign, end in ends if end]
    return f" WHERE ({' AND '.join(bounds)}) IS NOT FALSE" if bounds else ""


def misfits(schema: Schema, params: IngestParams, columns: Mapping[str, Column]) -> set[str]:
    """Return the columns of which a value does not fit its type."""
    with opened(table(schema, params)) as rows:
        found = cells(rows, columns)
        asked = ", ".join(f"coalesce(bool_or({cell.misfit}), false)" for cell in found.values())
        (answer,) = rows.connection.sql(f"SELECT {asked} FROM rows").fetchall()
    return {name for name, wrong in zip(found, answer, strict=True) if wrong}


def needed(
    schema: Schema, params: IngestParams, columns: Mapping[str, Column]
) -> Iterator[pa.Table]:
    """Give columns of the contract, all of which the source must have, of the rows in the window;
    raise Misfit if a value does not fit its type.
    """
    with selected(schema, params, columns, threads=1) as (rows, sql, names):
        if absent := set(columns) - set(names):
            raise Misfit(format_source(params.source), absent)
        yield from rows.tables(sql, names)


def store(schema: Schema, params: IngestParams, path: Path = RAW) -> tuple[int, int]:
    """Write the rows of the source to `path`; return the numbers of rows and columns.

    A column that does not fit its type is kept as text, for `validate` to report.
    """
    with files.writing(path) as tmp_path:
        try:
            write(tmp_path, schema, params)
        except Misfit as misfit:
            write(tmp_path, schema, params, misfit.names)
        found = pq.read_metadata(tmp_path)
        if not found.num_rows:
            start = f"{params.start:%Y-%m-%d}" if params.start else "the first"
            end = f"{params.end:%Y-%m-%d}" if params.end else "the last"
            what = f"has no row from {start} to {end}: see params.yaml"
            raise Failure(f"{format_source(params.source)} {what}")
    return found.num_rows, found.num_columns


def write(path: Path, schema: Schema, params: IngestParams, as_text: Collection[str] = ()) -> None:
    with selected(schema, params, schema.source, as_text) as (rows, sql, names):
        if len({name.lower() for name in names}) == len(names):
            shown = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
            copied = f"FROM ({sql}) AS t({shown})"
            rows.connection.execute(f"COPY ({copied}) TO {text(str(path))} (FORMAT parquet)")
            return
        rows.connection.execute("SET threads = 1")  # which keeps the order
        parts = rows.tables(sql, names)  # DuckDB would call `A` beside `a` another name
        first = next(parts)
        with pq.ParquetWriter(path, first.schema) as writer:
            for part in chain([first], parts):
                writer.write_table(part)


def main() -> None:
    params = load_params().ingest
    schema = load_schema()
    rows, columns = store(schema, params)
    print(f"ingest: {rows:,} rows, {columns} columns from {format_source(params.source)}")
