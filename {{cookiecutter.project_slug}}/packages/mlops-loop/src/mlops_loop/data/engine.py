"""DuckDB: the engine that reads, casts, profiles and compares tables. It never asks the network.

SQL names columns by their place, `c0`, `c1`, ...: DuckDB takes `a` and `A` for the same name.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH

CELLS = 20_000_000  # values held at a time, of a wide table
OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
KINDS = {  # what SQL does with a type of DuckDB; decimals have parameters
    **dict.fromkeys(("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "HUGEINT"), "number"),
    **dict.fromkeys(("UBIGINT", "UINTEGER", "USMALLINT", "UTINYINT", "UHUGEINT"), "number"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"), "time"),
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMPTZ_NS", "DATE"), "time"),
    **{"DOUBLE": "float", "FLOAT": "float", "BOOLEAN": "boolean", "VARCHAR": "text"},
    **{"JSON": "text", '"NULL"': "nothing", "DECIMAL": "number"},
}


@dataclass(frozen=True)
class Rows:
    """A table in DuckDB, called `rows`, with the columns `c0`, `c1`, ..."""

    connection: duckdb.DuckDBPyConnection
    names: list[str]
    types: list[str]

    @property
    def kinds(self) -> list[str]:
        """What each column holds: text, number, float, boolean, time, nothing or other."""
        return [KINDS.get(kind.partition("(")[0], "other") for kind in self.types]

    def tables(self, sql: str = "FROM rows", names: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Give the answer to a query some rows at a time, the columns under these names."""
        answer = self.connection.sql(sql).to_arrow_reader(min(BATCH, CELLS // len(self.names)))
        for batch in answer:
            yield pa.Table.from_batches([batch]).rename_columns(list(names or self.names))


def describe(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> Rows:
    """Return what `rows` are, which a connection has, under these names."""
    return Rows(connection, list(names), list(map(str, connection.sql("FROM rows").types)))


def connect(threads: int = 0) -> duckdb.DuckDBPyConnection:
    """Return a connection of so many threads: by default as many as there are processors.

    One that streams its answer needs to have one thread: else blocks of rows change places.
    """
    spill = tempfile.gettempdir()  # and not the folder of the project
    connection = duckdb.connect(config={**OFFLINE, "temp_directory": spill})
    connection.execute("SET TimeZone = 'UTC'")
    # As a join, IN would be computed of all rows, also where few are asked: 3.2 instead of 0.2 s.
    connection.execute("SET disabled_optimizers = 'in_clause'")
    if threads:
        connection.execute(f"SET threads = {threads}")
    return connection


@cache
def shared() -> duckdb.DuckDBPyConnection:
    return connect(threads=1)


@contextmanager
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection of one thread to the one engine of all: quick to make, for small files."""
    with shared().cursor() as found:
        found.execute("SET TimeZone = 'UTC'")  # which each connection has for itself
        yield found


@contextmanager
def registered(table: pa.Table) -> Iterator[Rows]:
    """Give a table of Arrow, in its order."""
    with cursor() as connection:
        connection.register("rows", placed(table))
        yield describe(connection, table.column_names)


@contextmanager
def stored(path: Path) -> Iterator[Rows]:
    """Give the rows of a Parquet file."""
    names = pq.read_schema(path).names
    places = ", ".join(f"c{place}" for place in range(len(names)))
    with connect() as connection:
        source = f"FROM read_parquet({path_text(path)}) AS t({places})"
        connection.execute(f"CREATE TEMP VIEW rows AS {source}")
        yield describe(connection, names)


def placed(table: pa.Table) -> pa.Table:
    return table.rename_columns([f"c{place}" for place in range(table.num_columns)])


class Stream:
    """Arrow tables as one stream, which DuckDB reads once, in the schema of the first table."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self.tables = iter(tables)
        self.first = next(self.tables, pa.table({}))
        # Later tables may have values where the first has none: as texts they fit any type.
        fields = [
            field.with_type(pa.string()) if pa.types.is_null(field.type) else field
            for field in self.first.schema.remove_metadata()
        ]
        self.schema = pa.schema(fields)
        self.error: Exception | None = None

    def read(self) -> pa.RecordBatchReader:
        """Return the rows, once. It is not kept: Arrow's reader would hold this object for good."""
        shape = placed(self.schema.empty_table()).schema
        return pa.RecordBatchReader.from_batches(shape, self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.fitted(self.first)
            for table in self.tables:
                yield from self.fitted(table)
        except Exception as error:
            self.error = error  # DuckDB passes on its text alone
            raise

    def fitted(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        try:
            yield from placed(table.select(self.schema.names).cast(self.schema)).to_batches()
        except (pa.ArrowException, ValueError, KeyError):
            changed = [one.name for one in table.schema if one not in list(self.schema)]
            what = "holds values of several kinds: let all be of one kind"
            raise Failure(f"the column {(changed or table.column_names)[0]!r} {what}") from None


def text(value: str) -> str:
    """Return a text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def path_text(path: Path) -> str:
    """Return a path as SQL has it: [1] would be a pattern."""
    return text(re.sub(r"([*?\[])", r"[\1]", str(path)))


def texts(values: Iterable[str]) -> str:
    """Return texts as a list, for IN."""
    return f"({', '.join(map(text, values))})"


def number(value: float) -> str:
    """Return a number as SQL has it: exactly, which 0.1 in SQL, a decimal, is not."""
    return f"{text(repr(float(value)))}::DOUBLE"
