"""Writer: makes predictions durable, those of concurrent requests in one transaction.

One thread writes what is queued: to the database, or to the spool while the database is away.
Another thread tries the database then, and replays the spool.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.connection import cut_off, is_wrong_sqlite_path, unusable
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.prediction_log.tables import create_missing
from mlops_loop.prediction_log.writing import spool
from mlops_loop.prediction_log.writing.database import LogDatabase
from mlops_loop.prediction_log.writing.replay import RejectedCounter, Replayer
from mlops_loop.prediction_log.writing.spool import LogFull, Spool

BATCH_BYTES = 2 << 20  # of rows in one transaction
QUEUE_BYTES = 64 << 20  # of rows that may wait
QUEUE_REQUESTS = 10_000  # that may wait
RETRY_SECONDS = 1  # between two attempts to reach the database
FLUSH_SECONDS = 5  # between two writes of rejected requests: a `kill -9` may lose so many
HANGING_SECONDS = 10  # until a transaction is cut off, that PostgreSQL itself did not end
LOGGER = logging.getLogger("uvicorn.error")
Waiting = tuple[Entry, asyncio.Future[None]]
Failures = dict[str, Exception]  # prefix of an entry that is not durable -> why


class EntryRejected(Exception):
    """The database rejects a prediction for what is in it."""


class Status(NamedTuple):
    queue: int  # requests
    spool_rows: int  # of this process
    spool_bytes: int  # of all processes
    answers: bool  # whether the database does


class Writer:
    """Writes to the log's database at `url`, or to files in `folder` of at most `limit` bytes."""

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.spool = Spool(folder, limit)  # creates the folder
        self.database = LogDatabase(url, folder)
        self.rejected = RejectedCounter()
        self.connection: sa.Connection | None = None  # of the thread that writes
        self.queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self.current: list[Waiting] = []
        self.bytes_queued = 0  # counted by the event loop
        self.bytes_taken = 0  # counted by the thread that writes
        self.closing = False
        self.ended = threading.Event()
        self.replayer = Replayer(self.database, folder, self.ended)
        self.full = False  # whether the spool takes no more while the database is away
        self.transactions = 0
        self.writing_since = math.inf  # when the transaction that runs began
        self.writing = threading.Thread(target=self.write_queued, daemon=True, name="log")
        self.recovering = threading.Thread(target=self.recover, daemon=True, name="spool")

    @property
    def engine(self) -> sa.Engine:
        return self.database.engine

    def start(self) -> None:
        """Start the threads. A database that is away is no error; a wrong SQLite path is one."""
        try:
            create_missing(self.engine)
        except SQLAlchemyError as error:
            if is_wrong_sqlite_path(error):
                raise unusable(error) from None
            self.database.mark_unavailable(error)
        self.writing.start()
        self.recovering.start()

    async def write(self, entry: Entry) -> None:
        """Return when all rows of the entry are on disk: in the database or in the spool.

        Raises LogFull if there is no room, and EntryRejected if the database takes all but this.
        """
        if self.closing:
            raise LogFull("the server is stopping")
        waiting = self.bytes_queued - self.bytes_taken
        if waiting > QUEUE_BYTES or self.queue.qsize() >= QUEUE_REQUESTS:
            raise LogFull("too many requests wait for the log")
        future = asyncio.get_running_loop().create_future()
        self.bytes_queued += len(entry.rows)
        self.queue.put((entry, future))
        await future

    def count_rejected(self, kind: str, place: str) -> None:
        """Count a rejected request; `place` is the column that broke the contract, if one did."""
        self.rejected.count(kind, place)

    def status(self) -> Status:
        size = spool.size(self.spool.folder)
        return Status(self.queue.qsize(), self.spool.rows(), size, self.database.available)

    def close(self, seconds: float = 10) -> None:
        """Write what waits, and end. What the database does not take in time goes to the spool."""
        self.closing = True
        self.queue.put(None)
        self.ended.set()
        self.writing.join(seconds)
        if rest := self.drain():
            settle(rest, self.write_to_spool([entry for entry, _ in rest]))
        self.recovering.join(RETRY_SECONDS)
        if not (self.writing.is_alive() or self.recovering.is_alive()):  # else the database hangs
            self.rejected.flush(self.database)
        self.spool.rotate()
        self.database.close()

    def drain(self) -> list[Waiting]:
        """Return what a thread that hangs has not written."""
        rest = list(self.current)
        with suppress(queue.Empty):
            while True:
                if item := self.queue.get_nowait():
                    rest.append(item)
        return rest

    def write_queued(self) -> None:
        """Write what is queued, until the end: while one transaction runs, the next one gathers."""
        more = True
        while more:
            more = self.take_batch()
            entries = [entry for entry, _ in self.current]
            try:
                failures = self.write_durably(entries) if entries else {}
            except Exception as error:  # of whatever kind: this thread must go on
                failures = dict.fromkeys([entry.prefix for entry in entries], error)
            settle(self.current, failures)
            self.current = []
        self.drop_connection()

    def take_batch(self) -> bool:
        """Wait for requests, and take all there are, up to BATCH_BYTES.

        Returns whether there will be more.
        """
        size = 0
        item = self.queue.get()
        while item:
            self.current.append(item)
            size += len(item[0].rows)
            if size >= BATCH_BYTES or self.queue.empty():
                break
            item = self.queue.get()
        self.bytes_taken += size
        return item is not None

    def write_durably(self, entries: Sequence[Entry]) -> Failures:
        """Write entries to the database, or else to the spool."""
        if self.database.available:
            try:
                self.connection = self.connection or self.engine.connect()
                self.transactions += 1
                self.writing_since = time.monotonic()
                rejected = self.database.write(self.connection, entries)
                self.writing_since = math.inf
                return {prefix: EntryRejected(reason) for prefix, reason in rejected.items()}
            except Exception as error:
                self.writing_since = math.inf
                self.database.mark_unavailable(error)
                self.drop_connection()
        return self.write_to_spool(entries)

    def write_to_spool(self, entries: Sequence[Entry]) -> Failures:
        lines: list[bytes] = []
        rows = 0
        failures: Failures = {}
        for entry in entries:
            try:
                lines.append(spool.to_line(entry))
                rows += entry.row_count
            except ValueError as error:  # no database would take it
                failures[entry.prefix] = EntryRejected(str(error))
        try:
            self.spool.append(lines, rows)
            self.full = False
        except LogFull as error:
            self.full = not self.database.available
            failures = {entry.prefix: error for entry in entries} | failures
        return failures

    def drop_connection(self) -> None:
        if self.connection:
            with suppress(Exception):
                self.connection.invalidate()
                self.connection.close()
            self.connection = None

    def recover(self) -> None:
        """Try the database while it is away, replay the spool, and flush counts, until the end."""
        flushed = time.monotonic()
        while True:
            self.cut_off_hanging()
            try:
                self.recover_once()
            except Exception as error:
                self.database.mark_unavailable(error)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                self.rejected.flush(self.database)
                flushed = time.monotonic()
            if self.ended.wait(RETRY_SECONDS):
                return

    def cut_off_hanging(self) -> None:
        """End a transaction that takes longer than any limit of the database's own."""
        connection = self.connection
        if connection and time.monotonic() - self.writing_since > HANGING_SECONDS:
            cut_off(connection)

    def recover_once(self) -> None:
        if not self.database.available:
            self.database.reconnect()
            self.full = False
        self.spool.rotate()
        self.replayer.replay_all()


def settle(items: Sequence[Waiting], failures: Failures) -> None:
    """Wake the requests that wait, all at once."""

    def wake(loop: asyncio.AbstractEventLoop) -> None:
        for entry, future in items:
            if future.done() or future.get_loop() is not loop:  # done: the client has gone
                continue
            if error := failures.get(entry.prefix):
                future.set_exception(error)
            else:
                future.set_result(None)

    for loop in {future.get_loop() for _, future in items}:
        with suppress(RuntimeError):  # it was closed: nothing waits
            loop.call_soon_threadsafe(wake, loop)
