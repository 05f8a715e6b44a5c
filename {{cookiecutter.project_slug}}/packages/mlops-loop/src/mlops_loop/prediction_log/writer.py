"""Writer: puts predictions into the log, those of concurrent requests at once, or into the spool.

One thread writes what is queued. While the database is away it writes to the spool; another one tries the
database then, and replays the spool.
"""

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log import log, spool
from mlops_loop.prediction_log.log import Entry
from mlops_loop.prediction_log.spool import Full, Spool

if sys.platform != "win32":
    import fcntl

TURNS = "turns"  # a file in the spool
BATCH = 2 << 20  # bytes of rows in one transaction
QUEUE = 64 << 20  # bytes of rows that may wait
REQUESTS = 10_000  # that may wait
SECONDS = 5  # until a statement of PostgreSQL counts as failed
PAUSE = 1  # seconds between two attempts to reach the database
FLUSH = 5  # seconds between two writes of what was refused: so much of it a `kill -9` may lose
ATTEMPTS = 5  # to replay a file, until its lines are tried one by one
PROBE = Entry("", datetime(2000, 1, 1, tzinfo=UTC), None, "", "", None, 0)  # has no rows

logger = logging.getLogger("uvicorn.error")
Waiting = tuple[Entry, asyncio.Future[None]]


class Refused(Exception):
    """The database refuses a prediction for what is in it."""


class Status(NamedTuple):
    queue: int  # requests
    spool_rows: int  # of this process
    spool_bytes: int  # of all processes
    answers: bool  # whether the database does


class Lost(Exception):
    """The file of a SQLite database is gone: what was written to it is not kept."""


@contextmanager
def turn(file: FileIO | None) -> Iterator[None]:
    """Let processes that write to one SQLite file do so one after the other; they share `file`.

    SQLite itself lets those who wait sleep longer and longer, and one process writes while the others starve.
    The turn of a process that hangs ends when the parent process ends it. Raises TimeoutError if another one
    kept its turn for long, because it waits for the file: all would wait, one after the other.
    """
    if file is None or sys.platform == "win32":
        yield
        return
    begun = time.monotonic()
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        if time.monotonic() - begun > log.BUSY / 2:
            raise TimeoutError("another process waits for its file")
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def store(
    connection: sa.Connection,
    entries: Sequence[Entry],
    refuses: Callable[[Exception], bool] = log.refuses,
) -> dict[str, str]:
    """Write entries in one transaction; return for those that the database refuses, by prefix, the reason.

    `refuses` tells whether an error is the data's. Any other one is raised: then nobody knows which are in
    the database.
    """
    try:
        with connection.begin():
            log.insert(connection, entries)
    except Exception as error:
        if not refuses(error):
            raise
        if len(entries) == 1:
            return {entries[0].prefix: log.reason(error)}
    else:
        if log.lost(connection):
            raise Lost("its file was moved or replaced")
        return {}
    half = len(entries) // 2  # until the one that is refused is alone
    return store(connection, entries[:half], refuses) | store(connection, entries[half:], refuses)


class Writer:
    """Writes to the log's database at `url`, or to files in `folder` of at most `limit` bytes."""

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.engine = log.connect(url, SECONDS)
        self.spool = Spool(folder, limit)
        self.turns: FileIO | None = None
        if self.engine.dialect.name == "sqlite":
            with suppress(OSError):  # then SQLite sees to it alone
                self.turns = FileIO(folder / TURNS, "a")
        self.connection: sa.Connection | None = None  # of the thread that writes
        self.queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self.current: list[Waiting] = []
        self.given = self.taken = 0  # bytes, each counted by one thread
        self.answers, self.closing, self.ended = True, False, threading.Event()
        self.full = False  # whether the spool takes no more while the database is away
        self.transactions = self.failures = 0  # the latter of the replay, one after the other
        self.refusals: dict[
            tuple[str, str], tuple[int, datetime]
        ] = {}  # kind, place: how many, the last
        self.counting, self.counted = (
            threading.Lock(),
            list[dict[str, Any]](),
        )  # the latter are to be written
        self.threads = [
            threading.Thread(target=target, daemon=True, name=name)
            for target, name in ((self.work, "log"), (self.watch, "spool"))
        ]

    def start(self) -> None:
        """Begin. A database that does not answer is no error; a SQLite file that cannot be is a Failure."""
        try:
            log.prepare(self.engine)
        except SQLAlchemyError as error:
            if log.impossible(error):
                raise log.unusable(error) from None
            self.lose(error)
        for thread in self.threads:
            thread.start()

    async def write(self, entry: Entry) -> None:
        """Return when all rows of the entry are on disk: in the database, or while that is away in the spool.

        Raises Full if there is no place, and Refused if the database takes everything but this.
        """
        waiting = self.given - self.taken
        if self.closing or waiting > QUEUE or self.queue.qsize() >= REQUESTS:
            raise Full(
                "the server is stopping" if self.closing else "too many requests wait for the log"
            )
        future = asyncio.get_running_loop().create_future()
        self.given += len(entry.rows)
        self.queue.put((entry, future))
        await future

    def refuse(self, kind: str, place: str) -> None:
        """Count a request that is refused; `place` is the column that broke the contract, if one did."""
        with self.counting:
            before = self.refusals.get((kind, place), (0,))[0]
            self.refusals[kind, place] = before + 1, datetime.now(UTC)

    def status(self) -> Status:
        size = spool.size(self.spool.folder)
        return Status(self.queue.qsize(), self.spool.rows(), size, self.answers)

    def close(self, seconds: float = 10) -> None:
        """Write what waits, and end. What the database does not take in that time goes to the spool."""
        self.closing = True
        self.queue.put(None)
        self.ended.set()
        self.threads[0].join(seconds)
        rest = list(self.current)  # of a thread that hangs
        with suppress(queue.Empty):
            while True:
                rest += [item] if (item := self.queue.get_nowait()) else []
        if rest:
            self.settle(rest, self.put_aside([entry for entry, _ in rest]))
        self.threads[1].join(PAUSE)
        if not any(thread.is_alive() for thread in self.threads):  # else the database hangs
            self.flush()
        self.spool.rotate()
        self.engine.dispose()
        if self.turns:
            self.turns.close()

    def work(self) -> None:
        """Write what is queued, until the end: while one transaction is on, the next one gathers."""
        more = True
        while more:
            more = self.take()
            entries = [entry for entry, _ in self.current]
            try:
                failed = self.put(entries) if entries else {}
            except Exception as error:  # of whatever kind: this thread must go on
                failed = dict.fromkeys([entry.prefix for entry in entries], error)
            self.settle(self.current, failed)
            self.current = []
        self.drop()

    def take(self) -> bool:
        """Wait for requests, and take all there are, up to BATCH; return whether there will be more."""
        size, item = 0, self.queue.get()
        while item:
            self.current.append(item)
            size += len(item[0].rows)
            if size >= BATCH or self.queue.empty():
                break
            item = self.queue.get()
        self.taken += size
        return item is not None

    def put(self, entries: Sequence[Entry]) -> dict[str, Exception]:
        """Write entries somewhere durable; return for those that are not, by prefix, why."""
        if self.answers:
            try:
                self.connection = self.connection or self.engine.connect()
                self.transactions += 1
                with turn(self.turns):
                    refused = store(self.connection, entries)
                return {prefix: Refused(reason) for prefix, reason in refused.items()}
            except Exception as error:
                self.lose(error)
                self.drop()
        return self.put_aside(entries)

    def put_aside(self, entries: Sequence[Entry]) -> dict[str, Exception]:
        lines, rows, failed = list[bytes](), 0, dict[str, Exception]()
        for entry in entries:
            try:
                line, count = spool.to_line(entry), spool.count(entry)
            except ValueError as error:  # no database would take it
                failed[entry.prefix] = Refused(str(error))
            else:
                lines.append(line)
                rows += count
        try:
            self.spool.append(lines, rows)
            self.full = False
        except Full as error:
            self.full = not self.answers
            failed = {entry.prefix: error for entry in entries} | failed
        return failed

    def settle(self, items: Sequence[Waiting], failed: dict[str, Exception]) -> None:
        """Wake the requests that wait, all at once."""

        def wake(loop: asyncio.AbstractEventLoop) -> None:
            for entry, future in items:
                if future.done() or future.get_loop() is not loop:  # done: the client has gone
                    continue
                if error := failed.get(entry.prefix):
                    future.set_exception(error)
                else:
                    future.set_result(None)

        for loop in {future.get_loop() for _, future in items}:
            with suppress(RuntimeError):  # it was closed: nobody waits
                loop.call_soon_threadsafe(wake, loop)

    def drop(self) -> None:
        """Forget the connection."""
        if self.connection:
            with suppress(Exception):
                self.connection.invalidate()
                self.connection.close()
            self.connection = None

    def lose(self, error: Exception) -> None:
        if self.answers:
            logger.error(
                "the prediction log is out of reach, predictions are spooled: %s", log.reason(error)
            )
        self.answers = False

    def watch(self) -> None:
        flushed = time.monotonic()
        while True:
            try:
                self.mend()
            except Exception as error:
                self.lose(error)
            if time.monotonic() - flushed >= FLUSH:
                self.flush()
                flushed = time.monotonic()
            if self.ended.wait(PAUSE):
                return

    def flush(self) -> None:
        """Write what was refused to the database; what it does not take now waits, and is counted once.

        A failure is no reason to spool predictions: those who write them find out themselves.
        """
        if not self.answers:
            return
        if not self.counted:
            with self.counting:
                counts, self.refusals = self.refusals, {}
            self.counted = log.refusals(counts)
        if not self.counted:
            return
        try:
            with self.engine.connect() as connection:
                with connection.begin():
                    log.refuse(connection, self.counted)
                if log.lost(connection):
                    connection.invalidate()
                    raise Lost("its file was moved or replaced")
        except Exception as error:  # of whatever kind: this thread must go on
            logger.warning(
                "what was refused is not in the prediction log yet: %s", log.reason(error)
            )
        else:
            self.counted = []

    def mend(self) -> None:
        """Try the database if it was away, and bring it what the spool holds."""
        if not self.answers:
            self.engine.dispose()  # old connections
            log.prepare(self.engine)
            self.probe()
            self.answers, self.full = True, False
            logger.info("the prediction log answers again")
        self.spool.rotate()
        for path in sorted(self.spool.folder.glob("*.jsonl")):
            with spool.claimed(path) as mine:
                if mine:
                    self.failures += 1
                    self.replay(path)
                    self.failures = 0

    def replay(self, path: Path) -> None:
        """Write a file of the spool to the database and remove it; to do so twice does no harm."""
        with self.engine.connect() as connection:
            for entries, broken in spool.chunks(path):
                if self.ended.is_set():
                    return  # the rest is for the next process
                refused = store(connection, entries, self.refuses) if entries else {}
                lines = broken + [
                    spool.to_line(entry) for entry in entries if entry.prefix in refused
                ]
                if lines:
                    place = spool.set_aside(self.spool.folder, lines)
                    logger.error(
                        "%d requests of the spool cannot be logged, see %s", len(lines), place
                    )
        path.unlink()

    def probe(self) -> None:
        """Write nothing: the database may be readable and no more."""
        with self.engine.connect() as connection:
            store(connection, [PROBE])

    def refuses(self, error: Exception) -> bool:
        """Return whether an error of the replay is the data's, also if it does not look like it.

        That is so if it comes again and again though the database takes other writes: such a line must not
        hold up the others for ever.
        """
        if log.refuses(error):
            return True
        if self.failures <= ATTEMPTS:
            return False
        self.probe()
        return True
