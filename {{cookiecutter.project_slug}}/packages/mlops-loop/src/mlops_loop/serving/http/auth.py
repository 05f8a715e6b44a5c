"""Keys: who may ask. Read again when their file changes, so that a key is replaced without a restart."""

import hmac
import logging
import time
from hashlib import sha256
from pathlib import Path

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings, parse_keys

LOGGER = logging.getLogger("uvicorn.error")
PAUSE = 1.0  # seconds between two looks at the file


class Keys:
    """The API keys of API_KEYS, and of the file in API_KEYS_FILE: a name:key on each line."""

    def __init__(self, settings: Settings) -> None:
        self.fixed = settings.keys()
        self.file = Path(settings.api_keys_file) if settings.api_keys_file else None
        self.seen, self.looked, self.said = (0, 0), 0.0, ""
        self.digests: dict[str, bytes] = {}
        self.look()
        self.asked = bool(self.digests) or self.file is not None

    def look(self) -> None:
        """Read the file if it has changed; one that cannot be read leaves the keys as they are."""
        self.looked = time.monotonic()
        more: dict[str, str] = {}
        if self.file:
            fact = self.file.stat()
            if (fact.st_mtime_ns, fact.st_ino) == self.seen:
                return
            more = parse_keys(
                self.file.read_text(encoding="utf-8", errors="replace"), str(self.file)
            )
            self.said, self.seen = "", (fact.st_mtime_ns, fact.st_ino)
        self.digests = {name: digest(key) for name, key in (self.fixed | more).items()}

    def name(self, given: str) -> str | None:
        """Return whose key it is, None if nobody's.

        It is compared with every key, in constant time each: the time taken tells nothing.
        """
        if self.file and time.monotonic() - self.looked > PAUSE:
            try:
                self.look()
            except (OSError, Failure) as error:  # half written, or away: it comes back
                if str(error) != self.said:
                    LOGGER.error("the API keys stay as they were: %s", error)
                self.said = str(error)
        found, mine = None, digest(given)
        for name, known in self.digests.items():
            if hmac.compare_digest(mine, known):
                found = name
        return found


def digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
