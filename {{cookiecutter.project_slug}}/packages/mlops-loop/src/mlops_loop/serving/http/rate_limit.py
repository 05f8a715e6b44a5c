"""Limits: how often each key may ask, counted over all the server's processes."""

import mmap
import os
import struct
import time
from pathlib import Path
from zlib import crc32

WINDOW = 60  # seconds
PAUSE = 0.1  # seconds between two looks for new processes
SLOTS = (
    1 << 20
)  # so many that two keys hardly share one; the files have no content where none is used
SLOT = struct.Struct("qqq")  # window, requests in it, requests in the one before


class Limiter:
    """Lets each key ask `limit` times in any minute; a limit of 0 is none.

    The count of a minute that slides is estimated from two fixed ones (as nginx and others do). Each
    process has a file in `folder` that it alone writes, and adds up what all the files say.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        self.limit, self.folder, self.mine = limit, folder, f"limits-{os.getpid()}"
        self.files: dict[str, mmap.mmap] = {}
        self.looked = 0.0
        if limit:
            with (folder / self.mine).open("wb") as file:
                file.truncate(SLOTS * SLOT.size)

    def look(self) -> None:
        """Open the files of processes that are new."""
        self.looked = time.time()
        for path in self.folder.glob("limits-*"):
            if path.name not in self.files and path.stat().st_size:
                with path.open("r+b") as file:
                    self.files[path.name] = mmap.mmap(file.fileno(), 0)

    def wait(self, key: str) -> int:
        """Count a request of a key; return 0 if it may be answered, or the seconds to wait until then."""
        if not self.limit:
            return 0
        now = time.time()
        window, gone = divmod(now, WINDOW)
        place = crc32(key.encode()) % SLOTS * SLOT.size
        if now - self.looked > PAUSE:
            self.look()
        current, before = 0, 0
        for name, file in self.files.items():
            found = at(SLOT.unpack_from(file, place), int(window))
            current, before = current + found[0], before + found[1]
            if name == self.mine:
                own = found
        if current + before * (1 - gone / WINDOW) >= self.limit:
            return max(1, int(WINDOW - gone) if current >= self.limit else 1)
        SLOT.pack_into(self.files[self.mine], place, int(window), own[0] + 1, own[1])
        return 0


def at(slot: tuple[int, int, int], window: int) -> tuple[int, int]:
    """Return the requests in a window and in the one before."""
    if slot[0] == window:
        return slot[1], slot[2]
    return 0, slot[1] if slot[0] == window - 1 else 0
