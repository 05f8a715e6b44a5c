"""Source: read any table, some rows at a time - CSV, Parquet or JSON lines, of a disk or a URL, or SQL."""

import csv
import io
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.base.params import Sql, format_source

MAX_COLUMNS = 2000
CELLS = 20_000_000  # values held at a time, of a wide table
BLOCK = 1 << 24  # bytes read at a time
HEAD = 1 << 20  # bytes in which a CSV file's header and delimiter are looked for
csv.field_size_limit(BLOCK)
DELIMITERS = ",;\t|"
SECONDS = 10  # without an answer, after which a server counts as out of reach
TIMEOUTS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": SECONDS, "retries": {"max_attempts": 2}}},
    "gs": {"timeout": SECONDS},
}


def batches(
    source: str | Sql, missing: Sequence[str] = ("",), copy: Path | None = None
) -> Iterator[pa.Table]:
    """Give the rows of a file, of a URL that fsspec knows or of an SQL query, at most BATCH at a time.

    Columns of a CSV file come as texts, all others in their types. Texts that stand for a missing
    value come as null. A `copy` of the file, from `local`, saves fetching it again. Raises Failure
    if there is no row, or if the table cannot be read.
    """
    rows, name = 0, format_source(source)
    for table in query(source, missing) if isinstance(source, Sql) else read(source, missing, copy):
        rows += table.num_rows
        for start in range(0, table.num_rows, BATCH):
            yield table.slice(start, BATCH)
    if not rows:
        raise Failure(f"{name} has no rows: a table with rows is needed")


Reader = Callable[[Path, str, Sequence[str]], Iterator[pa.Table]]


def reader_of(source: str) -> Reader:
    path = Path(urlsplit(source).path if "://" in source else source)
    stem = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    reader = READERS.get(stem.suffix.lower())
    if reader is None or (reader is read_parquet and stem != path):
        known = f"{', '.join(READERS)}; all but .parquet may be followed by .gz or .zst"
        raise Failure(f"{format_source(source)}: the name must end in one of {known}")
    return reader


def read(source: str, missing: Sequence[str], copy: Path | None) -> Iterator[pa.Table]:
    reader, name = reader_of(source), format_source(source)
    with nullcontext(copy) if copy else local(source) as found:
        if not found.is_file():
            raise Failure(f"{name} is {'a folder: name a file' if found.is_dir() else 'not there'}")
        if not found.stat().st_size:
            raise Failure(f"{name} is empty: a header and rows are needed")
        try:
            yield from reader(found, name, missing)
        except OSError as error:  # of decompression, mostly
            raise Failure(
                f"{name} cannot be read, it may be cut off or broken: {first_line(error)}"
            ) from None


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


@contextmanager
def reached(url: str, verb: str = "read") -> Iterator[tuple[Any, str]]:
    """Give fsspec's file system of a URL, and the path there; whatever these raise becomes a Failure."""
    import fsspec

    scheme = urlsplit(url).scheme
    options = TIMEOUTS.get(scheme, {})
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=SECONDS, sock_read=3 * SECONDS)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks the server twice
    try:
        yield fsspec.url_to_fs(url, **options)
    except Exception as error:  # each of fsspec's file systems has its own
        reason = first_line(error.__cause__ or error)
        if isinstance(error, FileNotFoundError) and not error.__cause__:
            reason = "there is no such file"
        reason = reason or f"no answer for {3 * SECONDS} seconds"
        raise Failure(f"{format_source(url)} cannot be {verb}: {reason}") from None


def about(system: Any, place: str) -> dict[str, Any]:
    """Return what a file system of fsspec knows of a path, such as its "type": file or directory."""
    if system.async_impl:  # some would try again for minutes
        import fsspec

        found = fsspec.asyn.sync(system.loop, system._info, place, timeout=3 * SECONDS)
    else:
        found = system.info(place)
    return dict(found)


def first_line(error: BaseException) -> str:
    """Return what went wrong, without URLs: they may hold a password."""
    return re.sub(r"\w+://\S+", "...", (str(error).splitlines() or [""])[0])


def check_names(names: Sequence[str], name: str) -> None:
    if len(names) > MAX_COLUMNS:
        raise Failure(
            f"{name} has {len(names):,} columns, the limit is {MAX_COLUMNS:,}: leave some out"
        )
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise Failure(f"{name} has two columns called {twice[0]!r}: rename one of them")
    if "" in names:
        raise Failure(f"{name}: column {names.index('') + 1} has no name: give it one")


def read_csv(path: Path, name: str, missing: Sequence[str]) -> Iterator[pa.Table]:
    """Give all columns as texts. A first column without a name, as pandas writes it, is called `index`."""
    delimiter, header = dialect(path, name)
    names = ["index" if header[0] == "" and "index" not in header else header[0], *header[1:]]
    check_names(names, name)
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        null_values=list(missing),
        strings_can_be_null=True,
    )
    try:
        with pa.input_stream(path, buffer_size=BLOCK) as stream:
            for batch in pa.csv.open_csv(
                stream, pa.csv.ReadOptions(block_size=BLOCK), parse, convert
            ):
                yield pa.Table.from_batches([batch]).rename_columns(names)
    except pa.ArrowInvalid as error:
        raise mistake(path, name, delimiter, len(header), error) from None


def dialect(path: Path, name: str) -> tuple[str, list[str]]:
    """Return a CSV file's delimiter, with which its first rows have most columns, and its header."""
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD)
    if b"\0" in head:
        raise Failure(f"{name} is not text: is it a CSV file? If so, save it as UTF-8")
    text = head.decode("utf-8-sig", errors="surrogateescape")

    def rows(delimiter: str) -> list[list[str]]:
        found = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row
        ]
        return found[:-1][:10] if len(head) == HEAD and len(found) > 1 else found[:10]

    try:
        found = {delimiter: rows(delimiter) for delimiter in DELIMITERS}
    except csv.Error as error:
        raise Failure(f"{name} is not a CSV file: {error}") from None
    if not found[","] or not text.strip():
        raise Failure(f"{name} is empty: a header and rows are needed")
    best = max(DELIMITERS, key=lambda delimiter: min(map(len, found[delimiter])))
    if re.search("[\udc80-\udcff]", "".join(found[best][0])):
        raise Failure(f"{name}, line 1: not UTF-8: save the file as UTF-8")
    if len(found[best]) == 1 and len(head) < HEAD and len(found[best][0]) <= MAX_COLUMNS:
        raise Failure(f"{name} has no rows: a table with rows is needed")
    return best, found[best][0]


def mistake(path: Path, name: str, delimiter: str, columns: int, error: Exception) -> Failure:
    """Return what is wrong with a CSV file that cannot be parsed, and in which line."""
    with io.TextIOWrapper(
        pa.input_stream(path), "utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        reader = csv.reader(text, delimiter=delimiter)
        try:
            for row in reader:
                where = f"{name}, line {reader.line_num:,}"
                if bad := re.search("[\udc80-\udcff]", "".join(row)):
                    return Failure(
                        f"{where}: byte 0x{ord(bad[0]) - 0xDC00:x} is not UTF-8: save the file as UTF-8"
                    )
                if row and len(row) != columns:
                    return Failure(
                        f"{where}: {len(row)} fields, but the header has {columns}: correct the line"
                    )
        except csv.Error as wrong:
            error = wrong
    return Failure(f"{name} is not a valid CSV file: {first_line(error)}")


def read_parquet(path: Path, name: str, missing: Sequence[str]) -> Iterator[pa.Table]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_names(names, name)
            for batch in file.iter_batches(min(BATCH, CELLS // len(names)) if names else BATCH):
                table = pa.Table.from_batches([batch])
                yield plain(table.replace_schema_metadata(), missing)  # no index, as pandas has it
    except pa.ArrowException as error:
        raise Failure(f"{name} is not a Parquet file, or broken: {first_line(error)}") from None


def plain(table: pa.Table, missing: Sequence[str]) -> pa.Table:
    """Return the table without dictionaries and rare types, and with null for what stands for it."""
    for place, field in enumerate(table.schema):
        values = table.column(place)
        if pa.types.is_dictionary(field.type):
            values = values.cast(field.type.value_type)
        if pa.types.is_float16(values.type) or pa.types.is_string_view(
            values.type
        ):  # hardly supported
            values = values.cast(pa.float32() if pa.types.is_float16(values.type) else pa.string())
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            blank = pc.is_in(values, pa.array(missing, values.type))
            values = pc.if_else(blank, None, values) if pc.any(blank).as_py() else values
        if values is not table.column(place):
            table = table.set_column(place, field.name, values)
    return table


def blocks(path: Path) -> Iterator[bytes]:
    """Give whole lines, about BLOCK bytes at a time."""
    with pa.input_stream(path) as stream:
        rest = b""
        while part := stream.read(BLOCK):
            lines, newline, rest = (rest + part).rpartition(b"\n")
            if lines.strip():
                yield lines + newline
        if rest.strip():
            yield rest


def read_json(path: Path, name: str, missing: Sequence[str]) -> Iterator[pa.Table]:
    """Give the rows of JSON lines in the types that hold for all lines: a first pass finds these."""

    def parse(block: bytes, **options: Any) -> pa.Table:
        whole = pa.json.ReadOptions(block_size=len(block) + 1)
        return pa.json.read_json(pa.BufferReader(block), whole, pa.json.ParseOptions(**options))

    def checked(table: pa.Table) -> pa.Table:
        table.validate(full=True)  # UTF-8, too
        return table

    try:
        kinds = pa.schema([])
        for block in blocks(path):
            if not kinds.names and block.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                lines = "one object in each line, as `jq -c '.[]'` writes them"
                raise Failure(f"{name} is a JSON array: JSON lines are needed, {lines}")
            found = [
                pa.field(
                    field.name, pa.string() if pa.types.is_timestamp(field.type) else field.type
                )
                for field in checked(parse(block)).schema
            ]
            kinds = pa.unify_schemas([kinds, pa.schema(found)], promote_options="permissive")
        check_names(kinds.names, name)
        for block in blocks(path):
            yield plain(
                parse(block, explicit_schema=kinds, unexpected_field_behavior="ignore"), missing
            )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        for number, line in enumerate(
            (line for block in blocks(path) for line in block.splitlines()), 1
        ):
            try:
                fine = not line.strip() or isinstance(json.loads(line), dict)
            except UnicodeDecodeError:
                raise Failure(
                    f"{name}, line {number:,}: not UTF-8: save the file as UTF-8"
                ) from None
            except ValueError:
                fine = False
            if not fine:
                raise Failure(f"{name}, line {number:,}: not a JSON object") from None
        raise Failure(f"{name}: its lines do not fit together: {first_line(error)}") from None


READERS: dict[str, Reader] = {
    **{".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet},
    **{".jsonl": read_json, ".ndjson": read_json, ".json": read_json},
}


def query(source: Sql, missing: Sequence[str]) -> Iterator[pa.Table]:
    """Give the rows of an SQL query; decimals come as floats, what Arrow has no type for as texts."""
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    address = os.environ.get(source.url_env)
    if not address:
        raise Failure(
            f"the environment variable {source.url_env} is not set: it must hold the database's URL"
        )
    name, password = format_source(source), None
    try:
        url = sa.make_url(address)
        password = url.password
        backend, file = url.get_backend_name(), url.database
        if (
            backend == "sqlite"
            and file not in (None, "", ":memory:")
            and not Path(str(file)).exists()
        ):
            raise Failure(f"{name}: there is no file {file}")  # SQLite would make an empty one
        slow = backend in ("postgresql", "mysql", "mariadb")
        engine = sa.create_engine(url, connect_args={"connect_timeout": SECONDS} if slow else {})
        with engine.connect().execution_options(yield_per=BATCH // 10) as connection:
            result = connection.exec_driver_sql(source.sql)
            names = list(result.keys())
            check_names(names, name)
            for rows in result.partitions(min(BATCH, CELLS // len(names))):
                yield plain(
                    pa.table([to_arrow(column) for column in zip(*rows, strict=True)], names),
                    missing,
                )
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise Failure(
            f"{name} failed: {reason.replace(password or ' ', '***' if password else ' ')}"
        ) from None


def to_arrow(values: Sequence[Any]) -> pa.Array:
    if any(isinstance(value, Decimal) for value in values):
        values = [None if value is None else float(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
