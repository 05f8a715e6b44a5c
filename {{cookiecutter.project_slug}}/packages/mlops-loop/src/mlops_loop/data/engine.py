"""DuckDB: the engine that reads, casts, profiles and compares tables. It never asks the network.

SQL names columns by their place, `c0`, `c1`, ...: DuckDB takes `a` and `A` for the same name.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sized
from functools import cache

import duckdb
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH

CELLS = 20_000_000  # values held at a time, of a wide table
OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


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


def run(table: pa.Table, sql: str) -> pa.Table:
    """Return the answer to a query on `rows`, which are those of the table, in their order."""
    with shared().cursor() as cursor:
        cursor.register("rows", placed(table))
        return cursor.sql(sql).to_arrow_table()


def placed(table: pa.Table) -> pa.Table:
    return table.rename_columns([f"c{place}" for place in range(table.num_columns)])


def rows_at_a_time(columns: Sized) -> int:
    return min(BATCH, CELLS // max(1, len(columns)))


class QueryError(Failure):
    """DuckDB could not answer a query on a stream."""


class Stream:
    """Arrow tables as one stream that DuckDB reads, in the schema of the first table."""

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

    def select(self, sql: str) -> Iterator[pa.Table]:
        """Give the answer to a query on `rows`, those of the stream, in their order."""
        with connect(threads=1) as connection:
            connection.register("rows", self.read())
            try:
                for batch in connection.sql(sql).to_arrow_reader(rows_at_a_time(self.schema)):
                    yield pa.Table.from_batches([batch])
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise self.error or QueryError(str(error).partition("\n")[0]) from None


def text(value: str) -> str:
    """Return a text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """Return texts as a list in brackets, for IN."""
    return f"({', '.join(map(text, values))})"


def number(value: float) -> str:
    """Return a number as SQL has it: exactly, which 0.1 in SQL, a decimal, is not."""
    return f"{text(repr(float(value)))}::DOUBLE"
