"""Read a source some rows at a time; the file's name says how. Add a format to READERS."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.base.params import Sql, format_source
from mlops_loop.data.engine import rows_at_a_time
from mlops_loop.data.source.csv_file import read_csv
from mlops_loop.data.source.json_lines import read_json
from mlops_loop.data.source.remote import about, first_line, reached
from mlops_loop.data.source.rows import BLOCK, check_names, plain
from mlops_loop.data.source.sql import query


def read_parquet(path: Path, name: str) -> Iterator[pa.Table]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_names(names, name)
            for batch in file.iter_batches(rows_at_a_time(names)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:  # also of a page that is cut off
        raise Failure(f"{name} is not a Parquet file, or broken: {first_line(error)}") from None


def index_columns(path: Path) -> list[str]:
    """Return the columns that pandas wrote as the index of the rows; none if it cannot be read."""
    try:
        about = pa.parquet.read_schema(path).pandas_metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return []
    return [name for name in about.get("index_columns", ()) if isinstance(name, str)]


# Gives the rows of the file at a path; messages call it by the name.
Reader = Callable[[Path, str], Iterator[pa.Table]]
READERS: dict[str, Reader] = {
    **{".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet},
    **{".jsonl": read_json, ".ndjson": read_json, ".json": read_json},
}


def batches(
    source: str | Sql, missing: Sequence[str] = ("",), copy: Path | None = None
) -> Iterator[pa.Table]:
    """Give the rows of a file, of a URL that fsspec knows or of an SQL query, at most BATCH at a
    time.

    Columns of a CSV file or a query come as texts, all others in their types. Texts that stand for
    a missing value come as null. A `copy` of the file, from `local`, saves fetching it again.
    Raises Failure if there is no row, or if the table cannot be read.
    """
    rows = 0
    for table in query(source) if isinstance(source, Sql) else read(source, copy):
        rows += table.num_rows
        table = plain(table, missing)
        for start in range(0, table.num_rows, BATCH):
            yield table.slice(start, BATCH)
    if not rows:
        raise Failure(f"{format_source(source)} has no rows: a table with rows is needed")


def reader_of(source: str) -> Reader:
    path = Path(urlsplit(source).path if "://" in source else source)
    stem = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    reader = READERS.get(stem.suffix.lower())
    if reader is None or (reader is read_parquet and stem != path):
        known = f"{', '.join(READERS)}; all but .parquet may be followed by .gz or .zst"
        raise Failure(f"{format_source(source)}: the name must end in one of {known}")
    return reader


def read(source: str, copy: Path | None) -> Iterator[pa.Table]:
    reader = reader_of(source)
    name = format_source(source)
    with nullcontext(copy) if copy else local(source) as found:
        if not found.is_file():
            raise Failure(f"{name} is {'a folder: name a file' if found.is_dir() else 'not there'}")
        before = found.stat()
        if not before.st_size:
            raise Failure(f"{name} is empty: a header and rows are needed")
        try:
            yield from reader(found, name)
        except OSError as error:  # of decompression, mostly
            what = f"cannot be read, it may be cut off or broken: {first_line(error)}"
            raise Failure(f"{name} {what}") from None
        after = found.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Failure(f"{name} changed while it was read: try again when it is written")


@contextmanager
def local(source: str) -> Iterator[Path]:
    """Give the path of a file, or of a temporary copy if `source` is a URL."""
    if "://" not in source:
        yield Path(source)
        return
    reader_of(source)  # before anything is fetched
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(urlsplit(source).path).name
        with reached(source) as (system, place):
            about(system, place)
            with system.open(place, "rb") as remote, path.open("wb") as file:
                shutil.copyfileobj(remote, file, BLOCK)
        yield path
