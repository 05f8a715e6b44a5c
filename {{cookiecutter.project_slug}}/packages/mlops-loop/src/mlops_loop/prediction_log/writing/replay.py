"""Replay: bring spooled predictions, and counts of rejected requests, to the database."""

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

from mlops_loop.prediction_log.connection import error_summary, file_was_replaced, is_data_error
from mlops_loop.prediction_log.rejected_requests import (
    KindAndPlace,
    RejectedRequests,
    insert_rejected,
    to_rows,
)
from mlops_loop.prediction_log.writing import spool
from mlops_loop.prediction_log.writing.database import FileReplaced, LogDatabase, write_entries

ATTEMPTS = 5  # to replay a file, until its lines are tried one by one
LOGGER = logging.getLogger("uvicorn.error")


class Replayer:
    """Writes the spool's files to the database, until `ended` is set."""

    def __init__(self, database: LogDatabase, folder: Path, ended: threading.Event) -> None:
        self.database = database
        self.folder = folder
        self.ended = ended
        self.failures = 0  # one after the other

    def replay_all(self) -> None:
        for path in sorted(self.folder.glob("*.jsonl")):
            with spool.claimed(path) as mine:
                if mine:
                    self.failures += 1
                    self.replay(path)
                    self.failures = 0

    def replay(self, path: Path) -> None:
        """Write a file of the spool to the database and remove it; doing so twice does no harm."""
        with self.database.engine.connect() as connection:
            for entries, broken in spool.chunks(path):
                if self.ended.is_set():
                    return  # the next process continues
                rejected = write_entries(connection, entries, self.is_data_error) if entries else {}
                lines = [spool.to_line(entry) for entry in entries if entry.prefix in rejected]
                if lines := broken + lines:
                    kept = spool.keep_rejected(self.folder, lines)
                    LOGGER.error("%d spooled requests cannot be logged, see %s", len(lines), kept)
        path.unlink()

    def is_data_error(self, error: Exception) -> bool:
        """Return whether the data is to blame, also if the error does not look like it.

        That is so if it comes again and again although the database takes other writes: such a
        line must not hold up the others for ever.
        """
        if is_data_error(error):
            return True
        if self.failures <= ATTEMPTS:
            return False
        self.database.probe()
        return True


class RejectedCounter:
    """Counts rejected requests in memory, and adds them to the log now and then."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: dict[KindAndPlace, tuple[int, datetime]] = {}  # requests, time of the last
        self.pending: list[RejectedRequests] = []  # a failed write keeps them: counted once

    def count(self, kind: str, place: str) -> None:
        with self.lock:
            requests, _ = self.counts.get((kind, place), (0, None))
            self.counts[kind, place] = (requests + 1, datetime.now(UTC))

    def flush(self, database: LogDatabase) -> None:
        """Write the counts to the database; what it does not take now waits for the next time.

        A failure is no reason to spool predictions: their writer notices by itself.
        """
        if not database.available:
            return
        if not self.pending:
            with self.lock:
                counts = self.counts
                self.counts = {}
            self.pending = to_rows(counts)
        if self.pending:
            try:
                self.write(database)
            except Exception as error:  # of whatever kind: this thread must go on
                text = "rejected requests are not in the prediction log yet: %s"
                LOGGER.warning(text, error_summary(error))

    def write(self, database: LogDatabase) -> None:
        with database.engine.connect() as connection:
            with connection.begin():
                insert_rejected(connection, self.pending)
            if file_was_replaced(connection):
                connection.invalidate()
                raise FileReplaced("its file was moved or replaced")
        self.pending = []
