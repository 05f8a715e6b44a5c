"""The log's database as one server process sees it: does it answer, and how to write to it."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import sqlalchemy as sa

from mlops_loop.prediction_log import connection as connections
from mlops_loop.prediction_log.connection import (
    connect,
    error_summary,
    file_was_replaced,
    is_data_error,
)
from mlops_loop.prediction_log.predictions import Entry, insert_predictions
from mlops_loop.prediction_log.tables import create_missing

if sys.platform != "win32":
    import fcntl

TURN_FILE = "turns"  # in the spool's folder
STATEMENT_SECONDS = 5  # until a statement of PostgreSQL fails: an answer waits for it
HANGING_SECONDS = 10  # until a transaction is cut off, that PostgreSQL itself did not end
PROBE = Entry("", datetime(2000, 1, 1, tzinfo=UTC), None, "", "", None, 0)  # has no rows
LOGGER = logging.getLogger("uvicorn.error")
Rejections = dict[str, str]  # prefix of an entry that the database rejects -> reason


class LogDatabase:
    """The engine, shared by threads, and `available`: whether the database answers."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = connect(url, STATEMENT_SECONDS)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.turn_file = FileIO(folder / TURN_FILE, "a") if self.is_sqlite else None
        self.available = True
        self.connection: sa.Connection | None = None  # of the thread that calls `write`
        self.writing_since: float | None = None  # when its transaction began

    def write(self, entries: Sequence[Entry]) -> Rejections:
        """Write entries; for one thread, which keeps its connection."""
        self.connection = self.connection or self.engine.connect()
        self.writing_since = time.monotonic()
        try:
            with turn(self.turn_file):
                return write_entries(self.connection, entries)
        except Exception:
            self.connection.invalidate()  # the next transaction connects anew
            raise
        finally:
            self.writing_since = None

    def cut_off_hanging(self) -> None:
        """End a transaction that waits for a PostgreSQL which hangs; another thread may do so.

        Keep-alives do not see that: its machine's kernel goes on acknowledging packets.
        """
        since = self.writing_since
        if self.is_sqlite or since is None or time.monotonic() - since < HANGING_SECONDS:
            return
        driver = self.connection and self.connection.connection.driver_connection
        if driver:
            with suppress(OSError), socket.socket(fileno=os.dup(driver.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    def mark_unavailable(self, error: Exception) -> None:
        if self.available:
            text = "the prediction log is unreachable; predictions go to the spool: %s"
            LOGGER.error(text, error_summary(error))
        self.available = False

    def reconnect(self) -> None:
        """Create missing tables and try to write. Raises an error if the database is still away."""
        self.engine.dispose()  # old connections
        create_missing(self.engine)
        self.probe()
        self.available = True
        LOGGER.info("the prediction log is reachable again")

    def probe(self) -> None:
        """Write nothing: the database may be readable and no more."""
        with self.engine.connect() as connection:
            write_entries(connection, [PROBE])

    def close(self) -> None:
        if self.connection and self.writing_since is None:  # else it hangs
            self.connection.close()
        self.engine.dispose()
        if self.turn_file:
            self.turn_file.close()


@contextmanager
def transaction(connection: sa.Connection) -> Iterator[None]:
    """Run a transaction. Raises OSError if the SQLite file that it wrote to was replaced."""
    with connection.begin():
        yield
    if file_was_replaced(connection):
        connection.invalidate()
        raise OSError("its file was moved or replaced")


def write_entries(
    connection: sa.Connection, entries: Sequence[Entry], blame_data: bool = False
) -> Rejections:
    """Write entries in one transaction; return those that the database rejects.

    An error that is not the data's, or not for sure, is raised unless `blame_data`: then it is
    unknown which entries are in the database.
    """
    if not entries:
        return {}
    try:
        with transaction(connection):
            insert_predictions(connection, entries)
        return {}
    except Exception as error:
        if not (blame_data or is_data_error(error)):
            raise
        if len(entries) == 1:
            return {entries[0].prefix: error_summary(error)}
    half = len(entries) // 2  # bisect, until the one that is rejected is alone
    first = write_entries(connection, entries[:half], blame_data)
    return first | write_entries(connection, entries[half:], blame_data)


@contextmanager
def turn(file: FileIO | None) -> Iterator[None]:
    """Let processes that write to one SQLite file do so one after the other; they share `file`.

    With SQLite's own lock waiting processes sleep longer and longer: one writes, the others starve.
    The turn of a process that hangs ends when its parent kills it. Raises TimeoutError if another
    one kept its turn for long, because it waits for the file: all would wait, one after the other.
    """
    if file is None or sys.platform == "win32":
        yield
        return
    begun = time.monotonic()
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        if time.monotonic() - begun > connections.SQLITE_LOCK_SECONDS / 2:
            raise TimeoutError("another process waits for its file")
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
