"""The log's database as one server process sees it: does it answer, and how to write to it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
PROBE = Entry("", datetime(2000, 1, 1, tzinfo=UTC), None, "", "", None, 0)  # has no rows
LOGGER = logging.getLogger("uvicorn.error")
Rejections = dict[str, str]  # prefix of an entry that the database rejects -> reason


class FileReplaced(Exception):
    """The file of a SQLite database was moved or replaced: what was written to it is lost."""


class LogDatabase:
    """The engine, shared by threads, and `available`: whether the database answers."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = connect(url, STATEMENT_SECONDS)
        self.available = True
        self.turn_file: FileIO | None = None
        if self.engine.dialect.name == "sqlite":
            with suppress(OSError):  # then SQLite's own lock has to do
                self.turn_file = FileIO(folder / TURN_FILE, "a")

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

    def write(self, connection: sa.Connection, entries: Sequence[Entry]) -> Rejections:
        """Write entries when it is this process's turn."""
        with turn(self.turn_file):
            return write_entries(connection, entries)

    def close(self) -> None:
        self.engine.dispose()
        if self.turn_file:
            self.turn_file.close()


def write_entries(
    connection: sa.Connection,
    entries: Sequence[Entry],
    is_data_error: Callable[[Exception], bool] = is_data_error,
) -> Rejections:
    """Write entries in one transaction; return those that the database rejects.

    Any error but `is_data_error` is raised: then it is unknown which are in the database.
    """
    try:
        with connection.begin():
            insert_predictions(connection, entries)
    except Exception as error:
        if not is_data_error(error):
            raise
        if len(entries) == 1:
            return {entries[0].prefix: error_summary(error)}
    else:
        if file_was_replaced(connection):
            raise FileReplaced("its file was moved or replaced")
        return {}
    half = len(entries) // 2  # bisect, until the one that is rejected is alone
    first = write_entries(connection, entries[:half], is_data_error)
    return first | write_entries(connection, entries[half:], is_data_error)


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
