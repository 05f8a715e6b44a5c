"""Rate limit: requests per minute of each key, counted in this process or in Redis."""

from __future__ import annotations

import logging
import time
from math import ceil
from typing import TYPE_CHECKING

from mlops_loop.base.errors import Failure, redacted

if TYPE_CHECKING:
    from limits.aio.storage import Storage

LOGGER = logging.getLogger("uvicorn.error")


class RateLimiter:
    """Lets each key send `limit` requests in any minute. While Redis is away, it holds none up."""

    def __init__(self, limit: int, url: str) -> None:
        from limits import RateLimitItemPerMinute  # here, because most servers have no limit
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self.limiter = SlidingWindowCounterRateLimiter(open_storage(url))
        self.item = RateLimitItemPerMinute(limit)

    async def seconds_to_wait(self, key: str) -> int:
        """Count a request of a key; return 0 if it may be answered, or how long it must wait."""
        from limits.errors import StorageError

        try:
            if await self.limiter.hit(self.item, key):
                return 0
            window = await self.limiter.get_window_stats(self.item, key)
        except StorageError as error:
            LOGGER.error("requests are not limited: %s", redacted(str(error.storage_error)))
            return 0
        return max(1, ceil(window.reset_time - time.time()))


def open_storage(url: str) -> Storage:
    from limits.aio.storage import Storage
    from limits.errors import ConfigurationError
    from limits.storage import storage_from_string

    try:
        storage = storage_from_string(
            f"async+{url}", implementation="redispy", wrap_exceptions=True
        )
    except (ConfigurationError, ValueError) as error:
        need = "it must be memory://, or redis://host:port with the package redis"
        raise Failure(f"RATE_LIMIT_URL: {redacted(str(error))}: {need}") from None
    assert isinstance(storage, Storage)  # noqa: S101 - "async+" says so
    return storage
