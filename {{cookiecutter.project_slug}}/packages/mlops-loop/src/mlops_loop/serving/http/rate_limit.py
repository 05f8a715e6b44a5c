"""Rate limit: requests per minute of each key, counted in this process or in Redis."""

import logging
import time
from math import ceil

from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from starlette.exceptions import HTTPException

from mlops_loop.base.errors import Failure, redacted

LOGGER = logging.getLogger("uvicorn.error")


class RateLimiter:
    """Lets each key send `limit` requests in any minute. While Redis is away, it holds none up."""

    def __init__(self, limit: int, url: str) -> None:
        try:
            storage = storage_from_string(
                f"async+{url}", implementation="redispy", wrap_exceptions=True
            )
        except (ConfigurationError, ValueError) as error:
            need = "it must be memory://, or redis://host:port with the package redis"
            raise Failure(f"RATE_LIMIT_URL: {redacted(str(error))}: {need}") from None
        assert isinstance(storage, Storage)  # noqa: S101 - "async+" says so
        self.limiter = SlidingWindowCounterRateLimiter(storage)
        self.item = RateLimitItemPerMinute(limit)

    async def check(self, key: str) -> None:
        """Count a request of a key; raise HTTPException 429 if it must wait."""
        try:
            if await self.limiter.hit(self.item, key):
                return
            window = await self.limiter.get_window_stats(self.item, key)
        except StorageError as error:
            LOGGER.error("requests are not limited: %s", redacted(str(error.storage_error)))
            return
        seconds = max(1, ceil(window.reset_time - time.time()))
        retry = {"Retry-After": str(seconds)}
        raise HTTPException(429, "too many requests with this key", retry)
