"""Partitions in the contract's types: each is cast once and kept, until it or the contract changes.

What is kept follows from the source alone, so that a fresh clone comes to the same bytes.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base import files
from mlops_loop.base.code_hash import source_hash
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import IngestParams, format_source
from mlops_loop.contract.schema import Schema
from mlops_loop.data import cast, engine
from mlops_loop.data.engine import Rows, path_text, text
from mlops_loop.data.source import partitions, read, select
from mlops_loop.data.source.partitions import Changes, Part, keys
from mlops_loop.data.source.read import Table, Unread, part_rows
from mlops_loop.data.source.remote import first_line, reached
from mlops_loop.data.source.select import Misfit, found_cells, misfits, shown

KEPT = Path("build/partitions")
MANIFEST = KEPT / "manifest.json"
WORKERS = 4  # partitions read at a time: a remote one is waited for
CODE = cast, engine, partitions, read, select

Bounds = tuple[datetime, datetime]


@dataclass(frozen=True)
class Folder:
    """A partitioned folder, with the files that were there when it was listed."""

    table: Table
    parts: Mapping[str, Part]

    @property
    def source(self) -> str:
        return str(self.table.source)


@dataclass(frozen=True)
class Reading:
    """How the files of a folder are read."""

    folder: Folder
    schema: Schema
    as_text: frozenset[str] = frozenset()

    def kept(self, name: str) -> Path:
        """Return where a file's rows are kept: under the hash of all that they follow from."""
        facts = [self.manner, name, *self.folder.parts[name]]
        return KEPT / f"{sha256(json.dumps(facts).encode()).hexdigest()[:32]}.parquet"

    @cached_property
    def manner(self) -> list[object]:
        columns = self.schema.source.items()
        dumped = [[name, column.model_dump(mode="json")] for name, column in columns]
        given = [dumped, self.schema.timestamp, sorted(self.as_text)]
        return [code(), duckdb.__version__, list(self.folder.table.missing), *given]


@cache
def code() -> list[str]:
    return [source_hash(Path(str(module.__file__))) for module in CODE]


def found_folder(table: Table) -> Folder | None:
    """Return the partitioned folder that a table is, if it is one."""
    if not isinstance(table.source, str):
        return None
    parts = partitions.parts_in(table.source)
    return None if parts is None else Folder(table, partitions.checked(parts, table.source))


@contextmanager
def cast_rows(
    folder: Folder, schema: Schema, window: IngestParams, as_text: Collection[str], threads: int
) -> Iterator[Rows]:
    """Give the rows of the files that may have some in the window; raise Misfit if a value does not
    fit its type.
    """
    reading = Reading(folder, schema, frozenset(as_text))
    with partitions.unchanged(folder.parts, folder.source):
        paths = made(reading, window)
    places = pq.read_schema(paths[0]).names
    names = [list(schema.source)[int(place[1:])] for place in places]
    with engine.connect(threads) as connection:
        listed = ", ".join(map(path_text, paths))
        numbered = ", ".join(f"c{place}" for place in range(len(places)))
        scan = f"read_parquet([{listed}], hive_partitioning=false)"
        rows = f"(SELECT {', '.join(places)} FROM {scan}) AS t({numbered})"
        try:
            connection.execute(f"CREATE TEMP VIEW rows AS FROM {rows}")
            yield engine.describe(connection, names)
        except duckdb.Error as error:
            what = f"cannot be read: remove it, and try again: {first_line(error)}"
            raise Failure(f"{KEPT} {what}") from None


def made(reading: Reading, window: IngestParams) -> list[Path]:
    """Return where the rows of each file are that the window needs; cast what is not kept."""
    wrong: dict[str, str] = {}  # column -> file

    def make(name: str) -> Path:
        path = reading.kept(name)
        if not path.is_file():
            for column in write(reading, name, path):
                wrong[column] = min(name, wrong.get(column, name))
        return path

    names = list(reading.folder.parts)
    with ThreadPoolExecutor(WORKERS) as workers:
        try:
            outside = list(workers.map(lambda name: is_outside(reading, name, window), names))
            needed = [name for name, out in zip(names, outside, strict=True) if not out]
            paths = dict(zip(needed, workers.map(make, needed), strict=True))
        finally:
            workers.shutdown(cancel_futures=True)
    where = format_source(reading.folder.source)
    for column, name in sorted(wrong.items()):
        kind = reading.schema.source[column].type
        print(f"{where}: {name} has values of {column!r} that are not of type {kind}")
    if wrong:
        raise Misfit(where, set(wrong))
    refuse_other_columns(reading, paths)
    return list(paths.values()) or [make(names[0])]


def refuse_other_columns(reading: Reading, paths: Mapping[str, Path]) -> None:
    """Refuse files of which one has a column of the contract that another one lacks."""
    columns = {name: set(pq.read_schema(path).names) for name, path in paths.items()}
    every = set[str]().union(*columns.values())
    for name, found in columns.items():
        if absent := every - found:
            lacking = list(reading.schema.source)[min(int(place[1:]) for place in absent)]
            what = f"{name} lacks the column {lacking!r}, which others have"
            raise Failure(f"{format_source(reading.folder.source)}: {what}: write it again with it")


def write(reading: Reading, name: str, path: Path) -> set[str]:
    """Write a file's rows in the contract's types; return the columns that do not fit theirs."""
    table, part = reading.folder.table, reading.folder.parts[name]
    columns = reading.schema.source
    places = {column: f"c{place}" for place, column in enumerate(columns)}
    try:
        with files.writing(path) as tmp_path, part_rows(table, name, part) as rows:
            found = found_cells(rows, columns, format_source(part.place))
            cells = zip(shown(found, reading.as_text), found, strict=True)
            asked = ", ".join(f"{cell} AS {places[column]}" for cell, column in cells)
            copied = f"COPY (SELECT {asked} FROM rows) TO {text(str(tmp_path))}"
            rows.connection.execute(f"{copied} (FORMAT parquet)")
    except Unread:
        typed = {key: column for key, column in columns.items() if key not in reading.as_text}
        with part_rows(table, name, part) as rows:
            wrong = misfits(rows, typed)
        if not wrong:
            raise
        return wrong
    return set()


def is_outside(reading: Reading, name: str, window: IngestParams) -> bool:
    """Return whether all rows of a file are known to be outside the window, without reading it."""
    if not reading.schema.timestamp or not (window.start or window.end):
        return False
    if not (bounds := times(reading, name, reading.schema.timestamp)):
        return False
    before = window.start and bounds[1] < window.start
    return bool(before or (window.end and bounds[0] >= window.end))


def times(reading: Reading, name: str, column: str) -> Bounds | None:
    """Return the first and the last time in a file, if its folder or its footer tells them."""
    told = keys(name)
    if column in told:
        given = pa.table({column: pa.array([told[column]], pa.string())})
        typed, _ = cast.check_table(given, {column: reading.schema.columns[column]})
        value = typed[column][0].as_py()
        return (value, value) if value else None
    kept = reading.kept(name)
    if kept.is_file():
        return footer_times(str(kept), f"c{list(reading.schema.source).index(column)}")
    noted = kept.with_suffix(".json")  # a footer at a URL is asked for once, too
    if not noted.is_file():
        found = footer_times(reading.folder.parts[name].place, column)
        files.write_json(noted, [each.isoformat() for each in found or ()])
    stored = [datetime.fromisoformat(each) for each in files.read_json(noted)]
    return (stored[0], stored[1]) if stored else None


def footer_times(place: str, column: str) -> Bounds | None:
    """Return the first and the last time of a column; None if a Parquet file's footer tells none,
    or there are rows without.
    """
    try:
        if "://" in place:
            with reached(place) as (system, path), system.open(path, cache_type="none") as file:
                footer = pq.read_metadata(file)
        else:
            footer = pq.read_metadata(place)
    except (pa.ArrowException, OSError) as error:
        what = "cannot be read, it may be cut off or broken"
        raise Failure(f"{format_source(place)} {what}: {first_line(error)}") from None
    places = [at for at in range(footer.num_columns) if footer.schema.column(at).path == column]
    found: list[datetime] = []
    for group in range(footer.num_row_groups):
        facts = footer.row_group(group).column(places[0]).statistics if places else None
        if not facts or not facts.has_min_max or not facts.has_null_count or facts.null_count:
            return None
        found += map(naive, (facts.min, facts.max)) if isinstance(facts.min, date) else ()
    return (min(found), max(found)) if len(found) == 2 * footer.num_row_groups > 0 else None


def naive(value: date) -> datetime:
    """Return a time in UTC, without its zone."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time())
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def remember(folder: Folder, schema: Schema, as_text: Collection[str]) -> Changes:
    """Return what changed since the ingest before; keep nothing of files that are gone."""
    stored = files.read_json(MANIFEST) if MANIFEST.is_file() else {}
    source = format_source(folder.source)
    before = stored.get("files", {}) if stored.get("source") == source else {}
    changes = partitions.compare(before, folder.parts)
    versions = {name: part.version for name, part in folder.parts.items()}
    files.write_json(MANIFEST, {"source": source, "files": versions})
    readings = [Reading(folder, schema), Reading(folder, schema, frozenset(as_text))]
    wanted = {reading.kept(name).stem for reading in readings for name in versions}
    for path in KEPT.iterdir():
        if path.suffix and path != MANIFEST and path.stem not in wanted:
            path.unlink()
    return changes
