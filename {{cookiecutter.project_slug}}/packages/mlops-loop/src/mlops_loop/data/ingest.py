"""Ingest: read the source and keep the columns of the contract, in the window asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import IngestParams, format_source, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.data.cast import Cell, cells
from mlops_loop.data.engine import QueryError, Stream, text
from mlops_loop.data.source.read import batches


class Misfit(Exception):
    """A value does not fit its column's type: holds the names of all such columns."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


def read(schema: Schema, params: IngestParams) -> Stream:
    """Return the rows that the project's reader gives, or those of the file, URL or query."""
    reader = project.load("reader")
    return Stream(reader(schema, params) if reader else batches(params.source, schema.missing))


def selected(
    schema: Schema,
    params: IngestParams,
    columns: Mapping[str, Column],
    as_text: frozenset[str] = frozenset(),
) -> Iterator[pa.Table]:
    """Give columns of the contract, in their types or `as_text`, of the rows in the window.

    Columns that are missing and rows without a time are left for `validate` to report. Raises
    Misfit if a column does not fit its type.
    """
    stream = read(schema, params)
    found = cells(stream.schema, columns)
    if not found:
        raise Failure(f"{format_source(params.source)} has none of the columns in schema.yaml")
    parts = [
        f"{cell.source}::VARCHAR" if name in as_text else strict(cell)
        for name, cell in found.items()
    ]
    window = inside(params, found[schema.timestamp].typed) if schema.timestamp in found else ""
    try:
        for table in stream.select(f"SELECT {', '.join(parts)} FROM rows{window}"):
            yield table.rename_columns(list(found))
    except QueryError:
        if names := misfits(read(schema, params), columns):
            raise Misfit(names) from None
        raise


def strict(cell: Cell) -> str:
    """Return a value in its type; the query fails if it does not fit."""
    return f"coalesce({cell.typed}, CASE WHEN {cell.given} THEN error('a misfit') END)"


def inside(params: IngestParams, time: str) -> str:
    """Return the condition that a row is in the window, or has no time."""
    ends = [(">=", params.start), ("<", params.end)]
    bounds = [f"{time} {sign} {text(str(end))}::TIMESTAMP" for sign, end in ends if end]
    return f" WHERE ({' AND '.join(bounds)}) IS NOT FALSE" if bounds else ""


def misfits(stream: Stream, columns: Mapping[str, Column]) -> set[str]:
    """Return the columns of which a value does not fit its type."""
    found = cells(stream.schema, columns)
    asked = ", ".join(f"coalesce(bool_or({cell.misfit}), false)" for cell in found.values())
    (answer,) = stream.select(f"SELECT {asked} FROM rows")
    return {name for name, wrong in zip(found, answer.columns, strict=True) if wrong[0].as_py()}


def labels(schema: Schema, params: IngestParams) -> Iterator[pa.Table]:
    """Give target and timestamp of the rows in the window; raise a Failure if they do not fit."""
    columns = {name: schema.columns[name] for name in (schema.timestamp, schema.target) if name}
    try:
        for table in selected(schema, params, columns):
            if absent := set(columns) - set(table.column_names):
                raise Misfit(absent)
            yield table
    except Misfit as misfit:
        source = format_source(params.source)
        what = f"has no column {min(misfit.names)!r} that fits schema.yaml"
        raise Failure(f"{source} {what}") from None


def store(schema: Schema, params: IngestParams, path: Path = RAW) -> tuple[int, int]:
    """Write the rows of the source to `path`; return the numbers of rows and columns.

    A column that does not fit its type is kept as text, for `validate` to report.
    """
    as_text: frozenset[str] = frozenset()
    with files.writing(path) as tmp_path:
        try:
            rows, columns = tables.write_tables(tmp_path, selected(schema, params, schema.source))
        except Misfit as misfit:
            as_text = frozenset(misfit.names)
            found = selected(schema, params, schema.source, as_text)
            rows, columns = tables.write_tables(tmp_path, found)
        if not rows:
            start = f"{params.start:%Y-%m-%d}" if params.start else "the first"
            end = f"{params.end:%Y-%m-%d}" if params.end else "the last"
            what = f"has no row from {start} to {end}: see params.yaml"
            raise Failure(f"{format_source(params.source)} {what}")
    return rows, columns


def main() -> None:
    params = load_params().ingest
    schema = load_schema()
    rows, columns = store(schema, params)
    print(f"ingest: {rows:,} rows, {columns} columns from {format_source(params.source)}")
