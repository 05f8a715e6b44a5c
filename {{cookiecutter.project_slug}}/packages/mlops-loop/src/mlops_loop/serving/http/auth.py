"""Who may send a request: API keys, open paths, and without keys only this machine."""

import hmac
import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings, parse_keys

LOGGER = logging.getLogger("uvicorn.error")
RELOAD_SECONDS = 1.0  # between two looks into the keys' file
OPEN_PATHS = {"/", "/page.js", "/docs", "/openapi.json", "/metrics", "/v2"}
OPEN_PREFIXES = ("/health/", "/v2/health/", "/static-offline-docs/")
MODEL_READY = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")


def is_open(path: str) -> bool:
    """Return whether a path needs no key: pages, health, metrics, documentation."""
    if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
        return True
    return MODEL_READY.fullmatch(path) is not None


def is_local(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request names this machine as host, and comes from no other site's page.

    Browsers send what any page tells them to, also to this machine.
    """
    host = headers.get(b"host", b"").lower()
    origin = headers.get(b"origin", b"").lower()
    return is_loopback(host) and (not origin or origin.partition(b"://")[2] == host)


@lru_cache(64)
def is_loopback(host: bytes) -> bool:
    name = re.sub(r":\d+$", "", host.decode("latin-1")).strip("[]")
    if name in ("", "localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class ApiKeys:
    """The keys of API_KEYS, and of the file API_KEYS_FILE: a name:key on each line.

    The file is read again and again: a key is replaced without a restart.
    """

    def __init__(self, settings: Settings) -> None:
        self.fixed = settings.keys()
        self.file = Path(settings.api_keys_file) if settings.api_keys_file else None
        self.required = settings.asks_for_keys
        self.logged_error = ""
        self.read()

    def read(self) -> None:
        self.read_at = time.monotonic()
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file else ""
        keys = self.fixed | parse_keys(text, str(self.file))
        self.digests = {name: digest(key) for name, key in keys.items()}

    def key_name(self, given: str) -> str | None:
        """Return the name of a key, None if it is unknown.

        It is compared with every key, in constant time each, so that timing reveals nothing.
        """
        if self.file and time.monotonic() - self.read_at > RELOAD_SECONDS:
            self.try_to_read()
        found = digest(given)
        names = [name for name, each in self.digests.items() if hmac.compare_digest(found, each)]
        return names[-1] if names else None

    def try_to_read(self) -> None:
        """Read the file; one that cannot be read leaves the keys as they are."""
        error = ""
        try:
            self.read()
        except (OSError, Failure) as problem:  # half written, or away: it comes back
            error = str(problem)
        if error and error != self.logged_error:
            LOGGER.error("the API keys stay as they were: %s", error)
        self.logged_error = error


def digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
