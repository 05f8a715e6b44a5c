"""Ingest: read the source and keep the columns of the contract, in the window asked for."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import IngestParams, format_source, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data.engine import Rows, text
from mlops_loop.data.source import cached
from mlops_loop.data.source.cached import Folder
from mlops_loop.data.source.partitions import Changes
from mlops_loop.data.source.read import Table, Unread, batches, opened
from mlops_loop.data.source.select import Misfit, found_cells, misfits, shown

Source = Folder | Iterable[pa.Table]


def table(schema: Schema, params: IngestParams) -> Iterable[pa.Table]:
    """Return what the project's reader gives, or the file, URL or query itself."""
    reader = project.load("reader")
    return reader(schema, params) if reader else batches(params.source, schema.missing)


def source_of(schema: Schema, params: IngestParams) -> Source:
    """Return what is read: a folder of partitions, or a table."""
    found = table(schema, params)
    return (cached.found_folder(found) if isinstance(found, Table) else None) or found


@contextmanager
def selected(
    source: Source,
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
        if isinstance(source, Folder):
            arriving = cached.cast_rows(source, schema, params, as_text, threads)
        else:
            arriving = opened(source, threads)
        with arriving as rows:
            found = found_cells(rows, columns, format_source(params.source))
            parts = shown(found, as_text)
            named = ", ".join(f"{part} AS t{place}" for place, part in enumerate(parts))
            time = found.get(schema.timestamp or "")
            sql = f"SELECT {named} FROM rows{inside(params, time.typed) if time else ''}"
            yield rows, sql, list(found)
    except Unread:
        with opened(table(schema, params)) as rows:
            names = misfits(rows, columns)
        if names:
            raise Misfit(format_source(params.source), names) from None
        raise


def inside(params: IngestParams, time: str) -> str:
    """Return the condition that a row is in the window, or has no time."""
    ends = [(">=", params.start), ("<", params.end)]
    bounds = [f"{time} {sign} {text(str(end))}::TIMESTAMP" for sign, end in ends if end]
    return f" WHERE ({' AND '.join(bounds)}) IS NOT FALSE" if bounds else ""


def needed(
    schema: Schema, params: IngestParams, columns: Mapping[str, Column]
) -> Iterator[pa.Table]:
    """Give columns of the contract, all of which the source must have, of the rows in the window;
    raise Misfit if a value does not fit its type.
    """
    source = source_of(schema, params)
    with selected(source, schema, params, columns, threads=1) as (rows, sql, names):
        if absent := set(columns) - set(names):
            raise Misfit(format_source(params.source), absent)
        yield from rows.tables(sql, names)


class Stored(NamedTuple):
    rows: int
    columns: int
    changes: Changes | None  # of a partitioned folder


def store(schema: Schema, params: IngestParams, path: Path = RAW) -> Stored:
    """Write the rows of the source to `path`.

    A column that does not fit its type is kept as text, for `validate` to report.
    """
    source = source_of(schema, params)
    as_text: Collection[str] = ()
    with files.writing(path) as tmp_path:
        try:
            write(tmp_path, source, schema, params)
        except Misfit as misfit:
            as_text = misfit.names
            again = source if isinstance(source, Folder) else table(schema, params)
            write(tmp_path, again, schema, params, as_text)
        found = pq.read_metadata(tmp_path)
        if not found.num_rows:
            start = f"{params.start:%Y-%m-%d}" if params.start else "the first"
            end = f"{params.end:%Y-%m-%d}" if params.end else "the last"
            what = f"has no row from {start} to {end}: see params.yaml"
            raise Failure(f"{format_source(params.source)} {what}")
    changes = cached.remember(source, schema, as_text) if isinstance(source, Folder) else None
    return Stored(found.num_rows, found.num_columns, changes)


def write(
    path: Path, source: Source, schema: Schema, params: IngestParams, as_text: Collection[str] = ()
) -> None:
    with selected(source, schema, params, schema.source, as_text) as (rows, sql, names):
        if len({name.lower() for name in names}) == len(names):
            named = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
            copied = f"FROM ({sql}) AS t({named})"
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
    stored = store(schema, params)
    source = format_source(params.source)
    print(f"ingest: {stored.rows:,} rows, {stored.columns} columns from {source}")
    if stored.changes:
        print(stored.changes)
