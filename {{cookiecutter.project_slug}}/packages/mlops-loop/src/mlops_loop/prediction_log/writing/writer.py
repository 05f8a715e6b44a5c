"""Writer: makes predictions durable, those of concurrent requests in one transaction.

One thread writes what is queued: to the database, or to the spool while the database is away.
Another thread tries the database then, and replays the spool.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.connection import error_summary, unusable
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.prediction_log.rejected_requests import RejectedCounter
from mlops_loop.prediction_log.tables import create_missing
from mlops_loop.prediction_log.writing.database import LogDatabase
from mlops_loop.prediction_log.writing.spool import NotLogged, Spool

BATCH_BYTES = 2 << 20  # of rows in one transaction
QUEUE_BYTES = 64 << 20  # that may wait, with some for each request beside its rows
REQUEST_BYTES = 8 << 10
CLOSE_SECONDS = 10  # that a transaction gets to end
LOGGER = logging.getLogger("uvicorn.error")
Waiting = tuple[Entry, asyncio.Future[None]]


class Status(NamedTuple):
    queue: int  # requests
    spool_rows: int  # of all processes
    spool_bytes: int
    answers: bool  # whether the database does


class Writer:
    """Writes to the log's database at `url`, or to files in `folder` of at most `limit` bytes."""

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.spool = Spool(folder, limit)  # creates the folder
        self.database = LogDatabase(url, folder)
        self.engine = self.database.engine
        self.rejected = RejectedCounter()
        self.count_rejected = self.rejected.count
        self.queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self.bytes_waiting = 0  # counted by the event loop
        self.full = False  # whether the spool takes no more while the database is away
        self.ended = threading.Event()
        self.writing = threading.Thread(target=self.write_queued, daemon=True, name="log")
        self.recovering = threading.Thread(target=self.recover, daemon=True, name="spool")

    def start(self) -> None:
        """Start the threads. A PostgreSQL that is away is no error; an unusable SQLite file is."""
        try:
            create_missing(self.engine)
        except SQLAlchemyError as error:
            if self.database.is_sqlite:
                raise unusable(error) from None
            self.database.mark_unavailable(error)
        self.database.prepare_days()  # before there are rows to be moved
        self.writing.start()
        self.recovering.start()

    async def write(self, entry: Entry) -> None:
        """Return when all rows of the entry are on disk: in the database or in the spool.

        Raises NotLogged if there is no room.
        """
        if self.ended.is_set():
            raise NotLogged("the server is stopping")
        if self.bytes_waiting > QUEUE_BYTES:
            raise NotLogged("too many requests wait for the log")
        future = asyncio.get_running_loop().create_future()
        self.bytes_waiting += len(entry.rows) + REQUEST_BYTES
        self.queue.put((entry, future))
        await future

    def status(self) -> Status:
        return Status(self.queue.qsize(), *self.spool.totals, self.database.available)

    def close(self) -> None:
        """End; what still waits was not answered. A thread that hangs is left behind."""
        self.ended.set()
        self.queue.put(None)
        self.writing.join(CLOSE_SECONDS)
        self.recovering.join(1)
        if not self.recovering.is_alive():
            self.flush_rejected()
        self.database.close()

    def write_queued(self) -> None:
        """Write what is queued, until the end: while one transaction runs, the next one gathers."""
        while not self.ended.is_set() and (item := self.queue.get()):
            batch = [item]
            size = len(item[0].rows)
            while size < BATCH_BYTES and not self.queue.empty() and (item := self.queue.get()):
                batch.append(item)
                size += len(item[0].rows)
            error = self.write_durably([entry for entry, _ in batch])
            _, future = batch[0]
            with suppress(RuntimeError):  # its loop was closed: nothing waits
                future.get_loop().call_soon_threadsafe(self.wake, batch, error)

    def write_durably(self, entries: Sequence[Entry]) -> Exception | None:
        """Write entries to the database, or else to the spool; return why neither was possible."""
        if self.database.available:
            try:
                self.database.write(entries)
                return None
            except Exception as error:
                self.database.mark_unavailable(error)
        try:
            self.spool.append([(entry.row_count, msgspec.json.encode(entry)) for entry in entries])
            self.full = False
            return None
        except Exception as error:  # of whatever kind: this thread must go on
            self.full = not self.database.available
            return error

    def wake(self, batch: Sequence[Waiting], error: Exception | None) -> None:
        for entry, future in batch:
            self.bytes_waiting -= len(entry.rows) + REQUEST_BYTES
            if future.done():  # the client has gone
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def recover(self) -> None:
        """Try the database while it is away, replay the spool, and flush counts, until the end."""
        while not self.ended.wait(1):
            self.database.cut_off_hanging()
            try:
                if not self.database.available:
                    self.database.reconnect()
                    self.full = False
                self.database.prepare_days()
                self.replay()
            except NotLogged as error:
                LOGGER.error("%s", error)
            except Exception as error:
                self.database.mark_unavailable(error)
            self.flush_rejected()

    def replay(self) -> None:
        """Write what is spooled to the database; that two processes do so does no harm."""
        while not self.ended.is_set() and (lines := self.spool.oldest()):
            entries = [msgspec.json.decode(line, type=Entry) for line in lines.values()]
            if rejected := self.database.write_or_reject(entries):
                kept = self.spool.set_aside([*map(msgspec.json.encode, rejected)])
                LOGGER.error("%d spooled requests cannot be logged, see %s", len(rejected), kept)
            self.spool.remove(max(lines))

    def flush_rejected(self) -> None:
        """Write the counts of rejected requests; what fails waits for the next time.

        A failure is no reason to spool predictions: their writer notices by itself.
        """
        try:
            if self.database.available:
                self.rejected.write(self.engine)
        except Exception as error:  # of whatever kind: this thread must go on
            text = "rejected requests are not in the prediction log yet: %s"
            LOGGER.warning(text, error_summary(error))
