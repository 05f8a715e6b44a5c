"""Rate limit: requests per minute of each key, counted over all the server's processes."""

import mmap
import os
import struct
import time
from pathlib import Path
from zlib import crc32

WINDOW = 60  # seconds
RESCAN_SECONDS = 0.1  # between two looks for the files of new processes
SLOTS = 1 << 20  # so many that two keys hardly share one; the files are sparse
SLOT = struct.Struct("qqq")  # window, requests in it, requests in the one before


class RateLimiter:
    """Lets each key send `limit` requests in any minute; a limit of 0 is none.

    The count of a sliding minute is estimated from two fixed ones, as nginx and others do. Each
    process has a file in `folder` that it alone writes, and adds up the counts of all files.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        self.limit = limit
        self.folder = folder
        self.own_file = f"limits-{os.getpid()}"
        self.files: dict[str, mmap.mmap] = {}
        self.scanned_at = 0.0
        if limit:
            with (folder / self.own_file).open("wb") as file:
                file.truncate(SLOTS * SLOT.size)

    def open_new_files(self) -> None:
        """Open the files of processes that are new."""
        self.scanned_at = time.time()
        for path in self.folder.glob("limits-*"):
            if path.name not in self.files and path.stat().st_size:
                with path.open("r+b") as file:
                    self.files[path.name] = mmap.mmap(file.fileno(), 0)

    def seconds_to_wait(self, key: str) -> int:
        """Count a request of a key; return 0 if it may be answered, or how long it must wait."""
        if not self.limit:
            return 0
        now = time.time()
        window, elapsed = divmod(now, WINDOW)
        offset = crc32(key.encode()) % SLOTS * SLOT.size
        if now - self.scanned_at > RESCAN_SECONDS:
            self.open_new_files()
        current = 0
        before = 0
        own = (0, 0)
        for name, file in self.files.items():
            counts = counts_at(SLOT.unpack_from(file, offset), int(window))
            current += counts[0]
            before += counts[1]
            if name == self.own_file:
                own = counts
        if current + before * (1 - elapsed / WINDOW) >= self.limit:
            return max(1, int(WINDOW - elapsed) if current >= self.limit else 1)
        SLOT.pack_into(self.files[self.own_file], offset, int(window), own[0] + 1, own[1])
        return 0


def counts_at(slot: tuple[int, int, int], window: int) -> tuple[int, int]:
    """Return the requests in a window and in the one before."""
    if slot[0] == window:
        return slot[1], slot[2]
    return 0, slot[1] if slot[0] == window - 1 else 0
