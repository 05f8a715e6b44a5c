"""Request bodies: limits on their size, their time, and on all of them together."""

import asyncio
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

MAX_REQUESTS = 512  # whole requests that one process works on
MAX_BYTES_HELD = 256 << 20  # of all bodies; above, only small ones are taken
SMALL_BODY = 64 << 10  # bytes
SECONDS = 10  # in which a body must arrive
RETRY_AFTER = {"Retry-After": "1"}


@dataclass
class Load:
    """What this process holds now: whole requests, and bytes of all bodies."""

    requests: int = 0
    bytes: int = 0


class RequestBody:
    """The body of a request as it arrives, within the limits."""

    def __init__(self, load: Load, receive: Receive, max_bytes: int) -> None:
        self.load = load
        self.receive_part = receive
        self.max_bytes = max_bytes
        self.size = 0
        self.complete = False
        self.deadline = time.monotonic() + SECONDS

    async def receive(self) -> Message:
        """Return the next ASGI message. Raises HTTPException 408, 413 or 503."""
        if self.complete:  # only a disconnect can follow, at any time
            return await self.receive_part()
        try:
            async with asyncio.timeout(max(0, self.deadline - time.monotonic())):
                message = await self.receive_part()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {SECONDS} seconds") from None
        self.check(len(message.get("body", b"")), bool(message.get("more_body")))
        return message

    def check(self, part: int, more: bool) -> None:
        self.size += part
        self.load.bytes += part
        if self.size > self.max_bytes:
            raise HTTPException(413, f"the body is larger than {self.max_bytes} bytes")
        if self.load.bytes > MAX_BYTES_HELD and self.size > SMALL_BODY:
            raise HTTPException(503, "the server is receiving too much at once", RETRY_AFTER)
        if not more:
            if self.load.requests >= MAX_REQUESTS:
                raise HTTPException(503, "too many requests are waiting", RETRY_AFTER)
            self.complete = True
            self.load.requests += 1

    def release(self) -> None:
        self.load.bytes -= self.size
        self.load.requests -= self.complete
