"""Spool: predictions that wait on disk for the log's database, in one SQLite file."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mlops_loop.base.errors import Failure

LOCK_SECONDS = 10  # until a process that waits for another one's transaction fails
LINES = 100  # that are read at a time
TABLES = """
PRAGMA auto_vacuum = FULL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS lines (id INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER, line BLOB);
CREATE TABLE IF NOT EXISTS totals (rows INTEGER, bytes INTEGER);
INSERT INTO totals SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM totals);
COMMIT;
"""
ADD = "UPDATE totals SET rows = rows + ?, bytes = bytes + ?"


class NotLogged(Failure):
    """A prediction is not durable, so it must not be answered."""


class Spool:
    """Keeps lines of at most `limit` bytes together; processes and threads may share it."""

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if left := sorted(folder.glob("*.jsonl")):
            why = "holds predictions of mlops-loop 1.0: let its server write them to the log first"
            raise Failure(f"{left[0]} {why}")
        self.folder = folder
        self.limit = limit
        self.totals = (0, 0)  # rows and bytes, of all processes
        with self.opened() as file:
            file.executescript(TABLES)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: when it ends, it is on the disk.

        It is opened each time, because nobody would find what is written to a file that was moved.
        """
        try:
            path = self.folder / "spool.db"
            with closing(sqlite3.connect(path, LOCK_SECONDS)) as file, file:
                file.execute("PRAGMA synchronous = EXTRA")  # a power cut undoes no commit
                yield file
                self.totals = file.execute("SELECT rows, bytes FROM totals").fetchone()
        except sqlite3.Error as error:
            raise NotLogged(f"the spool cannot be used: {error}") from None

    def append(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Append lines, each after its number of rows; raise NotLogged if there is no room."""
        with self.opened() as file:
            file.execute(ADD, (sum(n for n, _ in lines), sum(len(line) for _, line in lines)))
            if file.execute("SELECT bytes > ? FROM totals", (self.limit,)).fetchone()[0]:
                raise NotLogged("the spool is full")
            file.executemany("INSERT INTO lines (rows, line) VALUES (?, ?)", lines)

    def oldest(self) -> dict[int, bytes]:
        """Return the oldest lines by their numbers."""
        with self.opened() as file:
            return dict(file.execute("SELECT id, line FROM lines ORDER BY id LIMIT ?", (LINES,)))

    def remove(self, last: int) -> None:
        """Remove the lines up to this number; another process may have done it."""
        with self.opened() as file:
            query = "DELETE FROM lines WHERE id <= ? RETURNING -rows, -length(line)"
            file.executemany(ADD, file.execute(query, (last,)).fetchall())

    def set_aside(self, lines: Sequence[bytes]) -> Path:
        """Keep lines that the database rejects, for a person to look at; return where."""
        path = self.folder / "refused.txt"
        with path.open("ab", buffering=0) as file:
            file.write(b"".join(line + b"\n" for line in lines))
            os.fsync(file.fileno())
        return path
