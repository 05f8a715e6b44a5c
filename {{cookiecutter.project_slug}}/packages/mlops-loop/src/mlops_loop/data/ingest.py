"""Ingest: read the source and keep the columns of the contract, in the window asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import IngestParams, format_source, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.data.cast import Misfit, cast_tables
from mlops_loop.data.source.read import batches


def read(schema: Schema, params: IngestParams) -> Iterator[pa.Table]:
    """Yield the rows that the project's reader gives, or those of the file, URL or query."""
    reader = project.load("reader")
    yield from reader(schema, params) if reader else batches(params.source, schema.missing)


def selected(
    schema: Schema, params: IngestParams, as_text: set[str], columns: Mapping[str, Column]
) -> Iterator[pa.Table]:
    """Give columns of the contract, of the rows in the window.

    What does not fit the contract - columns that are missing, values of another type, rows without
    a time - is left for `validate` to report. Raises Misfit as `cast_tables` does.
    """
    time = schema.timestamp
    for table in cast_tables(read(schema, params), columns, as_text):
        if time is None or time not in table.column_names or time in as_text:
            yield table
            continue
        inside = pc.is_null(table[time])
        after = pc.greater_equal(table[time], params.start) if params.start else True
        before = pc.less(table[time], params.end) if params.end else True
        yield table.filter(pc.fill_null(pc.or_(inside, pc.and_(after, before)), True))


def labels(schema: Schema, params: IngestParams) -> Iterator[pa.Table]:
    """Give target and timestamp of the rows in the window; raise a Failure if they do not fit."""
    columns = {name: schema.columns[name] for name in (schema.timestamp, schema.target) if name}
    as_text: set[str] = set()
    absent = set[str]()
    try:
        for table in selected(schema, params, as_text, columns):
            absent = set(columns) - set(table.column_names)
            if absent:
                break
            yield table
    except Misfit:
        absent = as_text
    if absent:
        source = format_source(params.source)
        raise Failure(f"{source} has no column {min(absent)!r} that fits schema.yaml")


def store(schema: Schema, params: IngestParams, path: Path = RAW) -> tuple[int, int]:
    """Write the rows of the source to `path`; return the numbers of rows and columns."""
    as_text: set[str] = set()
    while True:
        try:
            with files.writing(path) as tmp_path:
                rows, columns = tables.write_tables(
                    tmp_path, selected(schema, params, as_text, schema.source)
                )
                if not columns:
                    raise Failure(
                        f"{format_source(params.source)} has none of the columns in schema.yaml"
                    )
                if not rows:
                    start = f"{params.start:%Y-%m-%d}" if params.start else "the first"
                    end = f"{params.end:%Y-%m-%d}" if params.end else "the last"
                    raise Failure(
                        f"{format_source(params.source)} has no row "
                        f"from {start} to {end}: see params.yaml"
                    )
                return rows, columns
        except Misfit:
            continue  # again, with that column as text


def main() -> None:
    params = load_params().ingest
    schema = load_schema()
    rows, columns = store(schema, params)
    print(f"ingest: {rows:,} rows, {columns} columns from {format_source(params.source)}")
