"""One request and its answer: id, body, headers that every answer has, metrics and log line."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from mlops_loop.serving import metrics
from mlops_loop.serving.http.auth import OPEN_PATHS
from mlops_loop.serving.ids import new_request_id

PREDICT = "/v1/predict"
# Labels of metrics, also for requests that do not reach a route; any other path is "other".
NAMED_PATHS = OPEN_PATHS | {PREDICT, "/v1/outcomes", "/v1/model"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CLIENT_CLOSED = 499  # as nginx has it
ERROR_KINDS = {
    400: "malformed",
    401: "key",
    403: "foreign",
    408: "slow",
    413: "size",
    415: "type",
    422: "contract",
    429: "rate",
    CLIENT_CLOSED: "gone",
    503: "busy",
}
REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
MAX_REQUESTS = 512  # whole requests that one process works on
MAX_BYTES_HELD = 256 << 20  # of all bodies; above, only small ones are taken
SMALL_BODY = 64 << 10  # bytes
BODY_SECONDS = 10  # in which a body must arrive
RETRY_AFTER = {"Retry-After": "1"}
LOGGER = logging.getLogger(f"{__package__}.requests")


@dataclass
class Load:
    """What this process holds now, and the limit on one body."""

    max_bytes: int
    requests: int = 0  # whole ones
    bytes: int = 0

    def check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise HTTPException(413, f"the body is larger than {self.max_bytes} bytes")


class Exchange:
    """One request and its answer, which gets the headers that every answer has."""

    def __init__(self, scope: Scope, send: Send, load: Load) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given if REQUEST_ID.fullmatch(given) else new_request_id().encode()
        self.method: str = scope["method"]
        # A slash at the end is no other place, and no reason for a redirect.
        self.path: str = scope["path"].rstrip("/") or "/"
        self.scope = {**scope, "path": self.path}
        if self.method == "HEAD":  # as GET; the server leaves out the body
            self.scope["method"] = "GET"
        self.send_message = send
        self.load = load
        self.size = 0  # of the body
        self.complete = False
        self.started = time.perf_counter()
        self.status = 500
        self.answering = False
        # The name of the API key, and the column that broke the contract.
        self.state = self.scope.setdefault("state", {})
        self.state |= {"key": None, "column": "", "body": b""}

    async def read_body(self, receive: Receive) -> None:
        """Read the whole body. Raises HTTPException 408, 413 or 503."""
        parts = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not self.complete:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    parts.append(message.get("body", b""))
                    self.hold(len(parts[-1]), bool(message.get("more_body")))
        except TimeoutError:
            reason = f"the body did not arrive within {BODY_SECONDS} seconds"
            raise HTTPException(408, reason) from None
        self.state["body"] = b"".join(parts)

    def hold(self, part: int, more: bool) -> None:
        self.size += part
        self.load.bytes += part
        self.load.check_size(self.size)
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

    async def send(self, message: Message) -> None:
        """Send an ASGI message; an answer's first one gets the headers."""
        if message["type"] == "http.response.start":
            self.answering = True
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            missing = [header for header in SECURITY_HEADERS if header[0] not in present]
            message["headers"] = [*message["headers"], *missing, (b"x-request-id", self.id)]
        await self.send_message(message)

    def measure(self) -> None:
        """Count and log a request under its route: what a client sends becomes no label."""
        seconds = time.perf_counter() - self.started
        route = getattr(self.scope.get("route"), "path", "")
        if not route:
            route = self.path if self.path in NAMED_PATHS else "other"
        method = self.method if self.method in METHODS else "OTHER"
        metrics.child(metrics.REQUESTS, route, method, self.status).inc()
        metrics.LATENCY.labels(route).observe(seconds)
        if self.status >= 400:
            other = "server" if self.status >= 500 else "other"
            metrics.ERRORS.labels(ERROR_KINDS.get(self.status, other)).inc()
        facts: dict[str, object] = {"request_id": self.id.decode(), "method": method}
        facts |= {"path": route, "status": self.status, "milliseconds": round(seconds * 1000, 3)}
        LOGGER.info("%s %s %d", method, route, self.status, extra=facts)
