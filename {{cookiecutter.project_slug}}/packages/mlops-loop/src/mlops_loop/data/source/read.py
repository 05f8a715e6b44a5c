"""Tables in files: CSV, Parquet and JSON lines, which DuckDB reads. Add a format to FORMATS."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Sql, format_source
from mlops_loop.data import engine
from mlops_loop.data.engine import Rows, path_text
from mlops_loop.data.source import csv_file
from mlops_loop.data.source.csv_file import BLOCK, HEAD
from mlops_loop.data.source.remote import about, first_line, query, reached

MAX_COLUMNS = 2000


class Unread(Failure):
    """DuckDB cannot read a table, and no line of it tells why."""


@dataclass(frozen=True)
class Table(Iterable[pa.Table]):
    """A file, a URL that fsspec knows, or an SQL query; iterate to get its rows some at a time.

    Columns of a CSV file or a query are texts, all others in their types; `missing` texts are null.
    """

    source: str | Sql
    missing: Sequence[str] = ("",)
    copy: Path | None = None  # of the file, from `local`: saves fetching it again

    def __iter__(self) -> Iterator[pa.Table]:
        count = 0
        with opened(self, threads=1) as rows:
            for part in rows.tables():
                count += len(part)
                yield part
        if not count:
            raise Failure(f"{format_source(self.source)} has no rows: a table with rows is needed")


def batches(source: str | Sql, missing: Sequence[str] = ("",)) -> Table:
    """Return the rows of a file, of a URL that fsspec knows or of an SQL query, as Arrow tables.

    Columns of a CSV file or a query come as texts, all others in their types. Texts that stand for
    a missing value come as null. To iterate raises Failure if there is no row, or if the table
    cannot be read.
    """
    return Table(source, missing)


@contextmanager
def opened(table: Iterable[pa.Table], threads: int = 0) -> Iterator[Rows]:
    """Give the rows of a table, or of Arrow tables, which can be asked for once."""
    if isinstance(table, Table) and isinstance(table.source, str):
        with read(table.source, table, threads) as rows:
            yield rows
        return
    name = "the project's reader"
    missing: Sequence[str] = ()
    if isinstance(table, Table) and isinstance(table.source, Sql):
        name, missing = format_source(table.source), table.missing
        table = query(table.source)
    stream = engine.Stream(table)
    check_names(stream.schema.names, name)
    with engine.connect(threads) as connection:
        connection.register("arriving", stream.read())
        try:
            yield view(connection, stream.schema.names, "FROM arriving", missing)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise stream.error or Unread(f"{name}: {first_line(error)}") from None


@contextmanager
def read(source: str, table: Table, threads: int) -> Iterator[Rows]:
    form = format_of(source)
    name = format_source(source)
    with nullcontext(table.copy) if table.copy else local(source) as path:
        if not path.is_file():
            raise Failure(f"{name} is {'a folder: name a file' if path.is_dir() else 'not there'}")
        before = path.stat()
        if not before.st_size:
            raise Failure(f"{name} is empty: a header and rows are needed")
        try:
            with engine.connect(threads) as connection:
                names, sql = form.query(connection, path, name)
                check_names(names, name)
                yield view(connection, names, sql, table.missing)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            with suppress(OSError):  # the same again
                if found := form.mistake(path, name):
                    raise found from None
            what = "cannot be read, it may be cut off or broken"
            raise Unread(f"{name} {what}: {first_line(error)}") from None
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Failure(f"{name} changed while it was read: try again when it is written")


def view(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], sql: str, missing: Sequence[str]
) -> Rows:
    """Return the answer to a query as `rows`: its columns c0, c1, ..., with null for `missing`."""
    places = [f"c{place}" for place in range(len(names))]
    found = connection.sql(f"FROM ({sql}) AS t({', '.join(places)})")
    columns = []
    for place, kind in zip(places, map(str, found.types), strict=True):
        value = {"JSON": f"{place} ->> '$'", "TIME": f"{place}::VARCHAR"}.get(kind, place)
        if missing and kind in ("VARCHAR", "JSON"):
            value = f"CASE WHEN {value} IN {engine.texts(missing)} THEN NULL ELSE {value} END"
        columns.append(f"{value} AS {place}")
    source = f"({sql}) AS t({', '.join(places)})"
    connection.execute(f"CREATE TEMP VIEW rows AS SELECT {', '.join(columns)} FROM {source}")
    return engine.describe(connection, names)


def check_names(names: Sequence[str], name: str) -> None:
    if len(names) > MAX_COLUMNS:
        limit = f"the limit is {MAX_COLUMNS:,}: leave some out"
        raise Failure(f"{name} has {len(names):,} columns, {limit}")
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise Failure(f"{name} has two columns called {twice[0]!r}: rename one of them")
    if "" in names:
        raise Failure(f"{name}: column {names.index('') + 1} has no name: give it one")


def parquet_query(_: duckdb.DuckDBPyConnection, path: Path, __: str) -> tuple[list[str], str]:
    options = "hive_partitioning=false"  # else DuckDB adds columns that a path tells
    return pq.read_schema(path).names, f"SELECT * FROM read_parquet({path_text(path)}, {options})"


def json_query(
    connection: duckdb.DuckDBPyConnection, path: Path, name: str
) -> tuple[list[str], str]:
    """Return the query for JSON lines, in the types that hold for all; times stay texts."""
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
        if not head:
            raise Failure(f"{name} is empty: lines with an object each are needed")
        if head.startswith(b"["):
            lines = "one object in each line, as `jq -c '.[]'` writes them"
            raise Failure(f"{name} is a JSON array: JSON lines are needed, {lines}")
    sql = (
        f"SELECT * FROM read_json({path_text(path)}, format='newline_delimited', records=true, "
        f"sample_size=-1, maximum_object_size={BLOCK}, dateformat='~', timestampformat='~')"
    )
    return connection.sql(sql).columns, sql


def json_mistake(path: Path, name: str) -> Failure | None:
    """Return which line is no JSON object: DuckDB counts lines in another way."""
    with pa.input_stream(path) as stream, io.BufferedReader(stream) as lines:
        for number, line in enumerate(lines, 1):
            what = ""
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    what = "not a JSON object"
            except UnicodeDecodeError:
                what = "not UTF-8: save the file as UTF-8"
            except ValueError:
                what = "not a JSON object"
            if what:
                return Failure(f"{name}, line {number:,}: {what}")
    return None


class Format(NamedTuple):
    # Returns the columns' names, and the query; messages call the file by the name.
    query: Callable[[duckdb.DuckDBPyConnection, Path, str], tuple[list[str], str]]
    mistake: Callable[[Path, str], Failure | None]  # in a file that cannot be read


CSV = Format(csv_file.query, csv_file.mistake)
JSON = Format(json_query, json_mistake)
PARQUET = Format(parquet_query, lambda *_: None)
FORMATS = {".csv": CSV, ".tsv": CSV, ".parquet": PARQUET} | dict.fromkeys(
    (".jsonl", ".ndjson", ".json"), JSON
)


def format_of(source: str) -> Format:
    path = Path(urlsplit(source).path if "://" in source else source)
    stem = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    found = FORMATS.get(stem.suffix.lower())
    if found is None or (found is PARQUET and stem != path):
        known = f"{', '.join(FORMATS)}; all but .parquet may be followed by .gz or .zst"
        raise Failure(f"{format_source(source)}: the name must end in one of {known}")
    return found


@contextmanager
def local(source: str) -> Iterator[Path]:
    """Give the path of a file, or of a temporary copy if `source` is a URL."""
    if "://" not in source:
        yield Path(source)
        return
    format_of(source)  # before anything is fetched
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(urlsplit(source).path).name
        with reached(source) as (system, place):
            about(system, place)
            with system.open(place, "rb") as remote, path.open("wb") as file:
                shutil.copyfileobj(remote, file, BLOCK)
        yield path
