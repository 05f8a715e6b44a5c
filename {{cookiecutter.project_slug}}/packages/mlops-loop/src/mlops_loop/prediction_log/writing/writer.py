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
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.connection import error_summary, unusable
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.prediction_log.rejected_requests import RejectedCounter
from mlops_loop.prediction_log.tables import create_missing
from mlops_loop.prediction_log.writing.database import LogDatabase, transaction, write_entries
from mlops_loop.prediction_log.writing.spool import LogFull, Spool

BATCH_BYTES = 2 << 20  # of rows in one transaction
QUEUE_BYTES = 64 << 20  # of rows that may wait
QUEUE_REQUESTS = 10_000  # that may wait
REPLAY_ATTEMPTS = 5  # until it is a spooled line that is to blame, and not the database
FLUSH_SECONDS = 5  # between two writes of rejected requests: a `kill -9` may lose so many
CLOSE_SECONDS = 10  # that what is queued at the end gets to be written
LOGGER = logging.getLogger("uvicorn.error")
Waiting = tuple[Entry, asyncio.Future[None]]
Failures = dict[str, Exception]  # prefix of an entry that is not durable -> why


class EntryRejected(Exception):
    """The database rejects a prediction for what is in it."""


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
        self.replay_failures = 0  # one after the other
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
        self.writing.start()
        self.recovering.start()

    async def write(self, entry: Entry) -> None:
        """Return when all rows of the entry are on disk: in the database or in the spool.

        Raises LogFull if there is no room, and EntryRejected if the database takes all but this.
        """
        if self.ended.is_set():
            raise LogFull("the server is stopping")
        if self.bytes_waiting > QUEUE_BYTES or self.queue.qsize() >= QUEUE_REQUESTS:
            raise LogFull("too many requests wait for the log")
        future = asyncio.get_running_loop().create_future()
        self.bytes_waiting += len(entry.rows)
        self.queue.put((entry, future))
        await future

    def status(self) -> Status:
        return Status(self.queue.qsize(), *self.spool.totals, self.database.available)

    def close(self) -> None:
        """Write what waits, and end; a thread that hangs is left behind."""
        self.ended.set()
        self.queue.put(None)
        self.writing.join(CLOSE_SECONDS)
        self.recovering.join(1)
        if not self.recovering.is_alive():
            self.flush_rejected()
        self.database.close()

    def write_queued(self) -> None:
        """Write what is queued, until the end: while one transaction runs, the next one gathers."""
        while batch := self.take_batch():
            entries = [entry for entry, _ in batch]
            try:
                failures = self.write_durably(entries)
            except Exception as error:  # of whatever kind: this thread must go on
                failures = dict.fromkeys([entry.prefix for entry in entries], error)
            _, future = batch[0]
            with suppress(RuntimeError):  # its loop was closed: nothing waits
                future.get_loop().call_soon_threadsafe(self.wake, batch, failures)

    def take_batch(self) -> list[Waiting]:
        """Wait for requests, and take all there are, up to BATCH_BYTES; none at the end."""
        batch = []
        size = 0
        while item := self.queue.get():
            batch.append(item)
            size += len(item[0].rows)
            if size >= BATCH_BYTES or self.queue.empty():
                return batch
        self.queue.put(None)  # the end, for the next time
        return batch

    def wake(self, batch: Sequence[Waiting], failures: Failures) -> None:
        for entry, future in batch:
            self.bytes_waiting -= len(entry.rows)
            if future.done():  # the client has gone
                continue
            if error := failures.get(entry.prefix):
                future.set_exception(error)
            else:
                future.set_result(None)

    def write_durably(self, entries: Sequence[Entry]) -> Failures:
        """Write entries to the database, or else to the spool."""
        if self.database.available:
            try:
                rejected = self.database.write(entries)
                return {prefix: EntryRejected(reason) for prefix, reason in rejected.items()}
            except Exception as error:
                self.database.mark_unavailable(error)
        lines: list[tuple[int, bytes]] = []
        failures: Failures = {}
        for entry in entries:
            try:
                lines.append((entry.row_count, msgspec.json.encode(entry)))
            except ValueError as error:  # no database would take it
                failures[entry.prefix] = EntryRejected(str(error))
        try:
            self.spool.append(lines)
            self.full = False
        except LogFull as error:
            self.full = not self.database.available
            failures = {entry.prefix: error for entry in entries} | failures
        return failures

    def recover(self) -> None:
        """Try the database while it is away, replay the spool, and flush counts, until the end."""
        for second in count(1):
            self.database.cut_off_hanging()
            try:
                if not self.database.available:
                    self.database.reconnect()
                    self.full = False
                self.replay()
            except LogFull as error:
                LOGGER.error("%s", error)
            except Exception as error:
                self.database.mark_unavailable(error)
            if second % FLUSH_SECONDS == 0:
                self.flush_rejected()
            if self.ended.wait(1):
                return

    def replay(self) -> None:
        """Write what is spooled to the database; that two processes do so does no harm."""
        while not self.ended.is_set() and (lines := self.spool.oldest()):
            # An error that comes again and again, although the database takes other writes, must
            # not hold up the other lines for ever.
            blame_data = self.replay_failures >= REPLAY_ATTEMPTS
            self.replay_failures += 1
            entries: dict[bytes, Entry] = {}
            aside: list[bytes] = []
            for text in lines.values():
                try:
                    entries[text] = msgspec.json.decode(text, type=Entry)
                except ValueError:
                    aside.append(text)
            with self.engine.connect() as connection:
                rejected = write_entries(connection, [*entries.values()], blame_data)
            aside += [text for text, entry in entries.items() if entry.prefix in rejected]
            if aside:
                self.database.probe()  # it is away, and no line to blame, if this fails
                kept = self.spool.set_aside(aside)
                LOGGER.error("%d spooled requests cannot be logged, see %s", len(aside), kept)
            self.spool.remove(max(lines))
            self.replay_failures = 0

    def flush_rejected(self) -> None:
        """Write the counts of rejected requests; what fails waits for the next time.

        A failure is no reason to spool predictions: their writer notices by itself.
        """
        try:
            if self.database.available and self.rejected.has_rows():
                with self.engine.connect() as connection, transaction(connection):
                    self.rejected.insert(connection)
                self.rejected.pending = []
        except Exception as error:  # of whatever kind: this thread must go on
            text = "rejected requests are not in the prediction log yet: %s"
            LOGGER.warning(text, error_summary(error))
