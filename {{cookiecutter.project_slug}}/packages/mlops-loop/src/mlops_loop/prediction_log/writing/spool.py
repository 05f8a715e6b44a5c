"""Spool: predictions on disk that wait for the log's database, one file of JSON lines per process.

A process holds the lock of the file that it uses: a file that is not locked belongs to a process
that has ended.
"""

import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from mlops_loop.prediction_log.predictions import Entry

CHUNK = 1 << 20  # bytes that are replayed at a time
DECODER = msgspec.json.Decoder(Entry)


class LogFull(Exception):
    """A prediction cannot be stored, so it must not be answered."""


def to_line(entry: Entry) -> bytes:
    """Return the entry as a line. Raises ValueError for texts that are not Unicode."""
    return msgspec.json.encode(entry) + b"\n"


def size(folder: Path) -> int:
    """Return the bytes of all files in the spool, also those of other processes."""
    total = 0
    for path in folder.glob("*.jsonl"):
        with suppress(FileNotFoundError):  # replayed just now
            total += path.stat().st_size
    return total


class Spool:
    """This process's file in the spool; threads may share it."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Make the folder; `limit` is in bytes, of all files together."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limit = limit
        self.mutex = threading.Lock()
        self.file: FileIO | None = None
        self.lock: FileLock | None = None
        self.end = 0  # of what was acknowledged of the file
        self.full = False  # whether the last lines could not be written
        self.counts: dict[Path, int] = {}  # rows of each file that this process made

    def append(self, lines: Sequence[bytes], rows: int) -> None:
        """Write lines, of `rows` rows; when this returns they are on disk.

        Raises LogFull if they cannot be.
        """
        data = b"".join(lines)
        with self.mutex:
            self.full = True
            try:
                if size(self.folder) + len(data) > self.limit:
                    raise LogFull("the spool is full")
                file = self.file or self.create_file()
                file.truncate(self.end)  # no half line of a write that failed
                write(file, data)
            except OSError as error:
                raise LogFull(f"the spool cannot be written: {error.strerror}") from None
            self.full = False
            self.end += len(data)
            self.counts[Path(str(file.name))] += rows

    def create_file(self) -> FileIO:
        path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        self.lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        self.lock.acquire()  # before there is a file that another process might take
        self.file = FileIO(path, "a")
        self.end = 0
        self.counts[path] = 0
        sync_folder(self.folder)
        return self.file

    def rotate(self) -> None:
        """Release the file, so that it is replayed; the next line begins another one."""
        with self.mutex:
            if self.file:
                self.file.close()
            if self.lock:
                self.lock.release()
            self.file = self.lock = None

    def rows(self) -> int:
        """Return how many rows of this process are not in the database yet."""
        with self.mutex:
            self.counts = {path: rows for path, rows in self.counts.items() if path.exists()}
            return sum(self.counts.values())


def write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that a new file is found again after a power cut."""
    if os.name != "nt":  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Lock a file of the spool; give whether that worked and the file is still there."""
    lock_file = path.with_suffix(".lock")
    try:
        with FileLock(lock_file, blocking=False):
            yield path.exists()
    except Timeout:
        yield False
        return
    if not path.exists():
        with suppress(OSError):
            lock_file.unlink()


def chunks(path: Path) -> Iterator[tuple[list[Entry], list[bytes]]]:
    """Yield the entries of a file, some at a time, and the lines that hold none.

    A last line without an end is left out: it was never acknowledged.
    """
    with path.open("rb") as file:
        while lines := file.readlines(CHUNK):
            entries: list[Entry] = []
            broken: list[bytes] = []
            for line in lines:
                try:
                    entries.append(DECODER.decode(line))
                except ValueError:
                    if line.endswith(b"\n"):
                        broken.append(line)
            yield entries, broken


def keep_rejected(folder: Path, lines: Sequence[bytes]) -> Path:
    """Keep lines that the database rejects, for a person to look at; return where."""
    path = folder / "refused.txt"
    with path.open("ab", buffering=0) as file:
        write(file, b"".join(lines))
    return path
