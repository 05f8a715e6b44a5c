"""The log's database as one server process sees it: does it answer, and how to write to it."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.connection import connect, error_summary, transaction
from mlops_loop.prediction_log.partitions import create_days_ahead
from mlops_loop.prediction_log.predictions import Entry, insert_predictions
from mlops_loop.prediction_log.tables import create_missing

if sys.platform != "win32":
    import fcntl

TURN_FILE = "turns"  # in the spool's folder
STATEMENT_SECONDS = 5  # until a statement of PostgreSQL fails: an answer waits for it
HANGING_SECONDS = 10  # until a transaction is cut off, that PostgreSQL itself did not end
PROBE = Entry("", datetime(2000, 1, 1, tzinfo=UTC), None, "", "", None, 0)  # has no rows
LOGGER = logging.getLogger("uvicorn.error")


class LogDatabase:
    """The engine, shared by threads, and `available`: whether the database takes predictions."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = connect(url, STATEMENT_SECONDS)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.turns = FileIO(folder / TURN_FILE, "a") if self.is_sqlite else None
        self.available = True
        self.prepared: date | None = None  # the day on which partitions were created
        self.connection: sa.Connection | None = None  # of the thread that calls `write`
        self.writing_since: float | None = None  # when its transaction began

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries in one transaction; for one thread, which keeps its connection."""
        self.connection = self.connection or self.engine.connect()
        self.writing_since = time.monotonic()
        try:
            with self.turn(), transaction(self.connection):
                insert_predictions(self.connection, entries)
        except Exception:
            self.connection.invalidate()  # the next transaction connects anew
            raise
        finally:
            self.writing_since = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let processes that write to one SQLite file do so one after the other.

        With SQLite's own lock waiting processes sleep longer and longer: one writes, others starve.
        """
        if self.turns is None or sys.platform == "win32":
            yield
            return
        fcntl.flock(self.turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.turns, fcntl.LOCK_UN)

    def write_or_reject(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write entries; return those that the database rejects, although it takes others."""
        try:
            with self.engine.connect() as connection, transaction(connection):
                insert_predictions(connection, entries)
            return []
        except Exception as error:
            self.probe()  # it is away, and no entry to blame, if this fails
            if len(entries) == 1:
                LOGGER.error("a prediction cannot be logged: %s", error_summary(error))
                return [*entries]
        half = len(entries) // 2  # bisect, until the one that is rejected is alone
        return self.write_or_reject(entries[:half]) + self.write_or_reject(entries[half:])

    def probe(self) -> None:
        """Write nothing: the database may be readable and no more."""
        with self.engine.connect() as connection, transaction(connection):
            insert_predictions(connection, [PROBE])

    def mark_unavailable(self, error: Exception) -> None:
        if self.available:
            text = "the prediction log is unreachable; predictions go to the spool: %s"
            LOGGER.error(text, error_summary(error))
        self.available = False

    def reconnect(self) -> None:
        """Create missing tables and try to write. Raises an error if the database is still away."""
        self.engine.dispose()  # old connections
        self.prepared = None  # it may be another database
        create_missing(self.engine)
        self.probe()
        self.available = True
        LOGGER.info("the prediction log is reachable again")

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

    def prepare_days(self) -> None:
        """Once a day create the partitions of the days to come.

        Where that fails, the rows of these days go to the DEFAULT partition: none is lost.
        """
        today = datetime.now(UTC).date()
        if self.is_sqlite or self.prepared == today or not self.available:
            return
        self.prepared = today
        try:
            create_days_ahead(self.engine)
        except SQLAlchemyError as error:
            text = "no partitions for the days to come; their owner may `log partition`: %s"
            LOGGER.warning(text, error_summary(error))

    def close(self) -> None:
        if self.connection and self.writing_since is None:  # else it hangs
            self.connection.close()
        self.engine.dispose()
        if self.turns:
            self.turns.close()
