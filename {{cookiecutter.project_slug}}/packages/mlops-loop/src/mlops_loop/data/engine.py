"""DuckDB: the engine that reads, casts, profiles and compares tables. It never asks the network.

SQL names columns by their place, `c0`, `c1`, ...: DuckDB takes `a` and `A` for the same name.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import groupby
from typing import TypeVar

import duckdb
import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = min(4, os.cpu_count() or 1)  # that work; more would wait for the one that writes
OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def connect(database: str = ":memory:", threads: int = 0) -> duckdb.DuckDBPyConnection:
    """Return a connection of so many threads: by default as many as there are processors.

    One that streams its answer needs to have one thread: else blocks of rows change places.
    """
    spill = tempfile.gettempdir()  # and not the folder of the project
    connection = duckdb.connect(database, config={**OFFLINE, "temp_directory": spill})
    connection.execute("SET TimeZone = 'UTC'")
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


class Stream:
    """Arrow tables of one schema, as a stream that DuckDB reads; keeps the error of its maker."""

    def __init__(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        names = [f"c{place}" for place in range(len(schema))]
        fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
        self.error: Exception | None = None
        self.reader = pa.RecordBatchReader.from_batches(pa.schema(fields), self.batches(tables))

    def batches(self, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        try:
            for table in tables:
                yield from placed(table).replace_schema_metadata().to_batches()
        except Exception as error:
            self.error = error
            raise


def streams(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Schema, Stream]]:
    """Give the tables as one stream for each run of tables of the same schema: most often one."""
    for schema, alike in groupby(tables, lambda table: table.schema.remove_metadata()):
        yield schema, Stream(schema, alike)


def ahead(items: Iterator[Item], work: Callable[[Item], Result]) -> Generator[Result]:
    """Yield what `work` makes of each item, in order: threads read and work ahead."""
    reader = ThreadPoolExecutor(1)  # a database's driver may want to be read by one thread
    workers = ThreadPoolExecutor(THREADS)
    waiting = deque[Future[Result]]()
    try:
        reading = reader.submit(next, items, None)
        while (item := reading.result()) is not None:
            reading = reader.submit(next, items, None)
            waiting.append(workers.submit(work, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)
        workers.shutdown(cancel_futures=True)


def text(value: str) -> str:
    """Return a text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """Return texts as a list in brackets, for IN."""
    return f"({', '.join(map(text, values))})"


def number(value: float) -> str:
    """Return a number as SQL has it: exactly, which 0.1 in SQL, a decimal, is not."""
    return f"{text(repr(float(value)))}::DOUBLE"
