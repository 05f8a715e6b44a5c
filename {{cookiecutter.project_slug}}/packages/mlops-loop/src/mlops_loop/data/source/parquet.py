"""Parquet files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.data.source.remote import first_line
from mlops_loop.data.source.rows import CELLS, check_names, plain


def read_parquet(path: Path, name: str, missing: Sequence[str]) -> Iterator[pa.Table]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_names(names, name)
            for batch in file.iter_batches(min(BATCH, CELLS // len(names)) if names else BATCH):
                table = pa.Table.from_batches([batch])
                yield plain(table.replace_schema_metadata(), missing)  # no index, as pandas has it
    except (pa.ArrowException, OSError) as error:  # also of a page that is cut off
        raise Failure(f"{name} is not a Parquet file, or broken: {first_line(error)}") from None


def index_columns(path: Path) -> list[str]:
    """Return the columns that pandas wrote as the index of the rows; none if it cannot be read."""
    try:
        about = pa.parquet.read_schema(path).pandas_metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return []
    return [name for name in about.get("index_columns", ()) if isinstance(name, str)]
