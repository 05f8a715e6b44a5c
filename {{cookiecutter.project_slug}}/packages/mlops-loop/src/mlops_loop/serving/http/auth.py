"""Who may send a request, and how many: API keys, open paths, this machine, rate limit."""

import hmac
import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from math import ceil
from pathlib import Path

from starlette.exceptions import HTTPException

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.settings import Settings, parse_keys

LOGGER = logging.getLogger("uvicorn.error")
RELOAD_SECONDS = 1.0  # between two looks into the keys' file
OPEN_PATHS = {"/", "/page.js", "/docs", "/openapi.json", "/metrics", "/v2"}
OPEN = re.compile(
    r"/v2/models/[^/]+(/versions/[^/]+)?/ready|(/v2)?/health/.*|/static-offline-docs/.*"
)


def is_open(path: str) -> bool:
    """Return whether a path needs no key: pages, health, metrics, documentation."""
    return path in OPEN_PATHS or OPEN.fullmatch(path) is not None


def is_local(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request is to this machine by name, and from no page of another site."""
    host = headers.get(b"host", b"").lower()
    origin = headers.get(b"origin", b"").lower()
    return is_loopback(host) and (not origin or origin.partition(b"://")[2] == host)


@lru_cache(64)
def is_loopback(host: bytes) -> bool:
    name = re.sub(r":\d+$", "", host.decode("latin-1")).strip("[]")
    try:
        return name in ("", "localhost") or ip_address(name).is_loopback
    except ValueError:
        return False


class ApiKeys:
    """The keys of API_KEYS, and of the file API_KEYS_FILE, which is read again and again."""

    def __init__(self, settings: Settings) -> None:
        self.fixed = settings.keys()
        self.file = Path(settings.api_keys_file) if settings.api_keys_file else None
        self.required = settings.asks_for_keys
        self.read()

    def read(self) -> None:
        self.read_at = time.monotonic()
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file else ""
        keys = self.fixed | parse_keys(text, str(self.file))
        self.digests = {name: digest(key) for name, key in keys.items()}

    def key_name(self, given: str) -> str | None:
        """Return the name of a key, None if it is unknown; how long it takes reveals nothing."""
        if self.file and time.monotonic() - self.read_at > RELOAD_SECONDS:
            try:
                self.read()
            except (OSError, Failure) as error:  # half written, or away: it comes back
                LOGGER.error("the API keys stay as they were: %s", error)
        found = digest(given)
        names = [name for name, each in self.digests.items() if hmac.compare_digest(found, each)]
        return names[-1] if names else None


def digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


class RateLimiter:
    """Lets each key send `limit` requests in any minute; while Redis is away, it holds none up."""

    def __init__(self, limit: int, url: str) -> None:
        # Here, because most servers have no limit, and do without its memory.
        from limits import RateLimitItemPerMinute
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from limits.storage import storage_from_string

        try:
            storage = storage_from_string(f"async+{url}", implementation="redispy")
            self.limiter = SlidingWindowCounterRateLimiter(storage)
        except Exception as error:  # a wrong URL, or a package that is missing
            need = "it must be memory://, or redis://host:port with the package redis"
            raise Failure(f"RATE_LIMIT_URL: {redacted(str(error))}: {need}") from None
        self.item = RateLimitItemPerMinute(limit)

    async def check(self, key: str) -> None:
        """Count a request of a key; raise HTTPException 429 if it must wait."""
        try:
            if await self.limiter.hit(self.item, key):
                return
            window = await self.limiter.get_window_stats(self.item, key)
        except Exception as error:  # of whatever kind the storage has
            LOGGER.error("requests are not limited: %s", redacted(str(error)))
            return
        seconds = max(1, ceil(window.reset_time - time.time()))
        retry = {"Retry-After": str(seconds)}
        raise HTTPException(429, "too many requests with this key", retry)
