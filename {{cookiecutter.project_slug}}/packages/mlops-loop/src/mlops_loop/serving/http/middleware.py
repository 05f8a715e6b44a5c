"""ASGI middleware: request id, authentication, limits, headers, metrics and a log line.

Plain ASGI, because every request passes it. It calls the endpoint of /v1/predict itself: FastAPI's
layers cost as much as all the rest of a one-row request.
"""

import asyncio
import logging
import re
import time
from random import Random

from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_loop.serving import api, metrics
from mlops_loop.serving.http.auth import OPEN_PATHS, ApiKeys, RateLimiter, is_local, is_open
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.service import Service

PREDICT_PATHS = re.compile(r"/v1/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
# Labels of metrics, also for requests that do not reach a route; any other path is "other".
NAMED_PATHS = OPEN_PATHS | {api.PREDICT, "/v1/outcomes", "/v1/model"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CLIENT_CLOSED = 499  # as nginx has it
# For what was sent: the prediction log counts these.
REJECTED = {400: "malformed", 413: "size", 415: "type", 422: "contract"}
OTHER_ERRORS = {401: "key", 403: "foreign", 408: "slow", 429: "rate", 503: "busy"}
ERROR_KINDS = REJECTED | OTHER_ERRORS | {CLIENT_CLOSED: "gone"}
REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
# Clients may choose a request's id, so it is no secret. To ask the system for one costs a change
# of threads; the project's code may seed the common generator.
REQUEST_IDS = Random()  # noqa: S311
SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
MAX_BYTES_HELD = 256 << 20  # of all bodies; above, only small ones are taken
SMALL_BODY = 64 << 10  # bytes
BODY_SECONDS = 10  # in which a body must arrive
RETRY_AFTER = {"Retry-After": "1"}
LOGGER = logging.getLogger("uvicorn.error")
REQUEST_LOGGER = logging.getLogger(f"{__package__}.requests")


class Exchange:
    """One request and its answer, which gets the headers that every answer has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        new = REQUEST_ID.fullmatch(given) is None
        self.id = b"%032x" % REQUEST_IDS.getrandbits(128) if new else given
        self.method: str = scope["method"]
        # A slash at the end is no other place, and no reason for a redirect.
        self.path: str = scope["path"].rstrip("/") or "/"
        self.scope = {**scope, "path": self.path}
        if self.method == "HEAD":  # as GET; the server leaves out the body
            self.scope["method"] = "GET"
        # The name of the API key, and the column that broke the contract.
        self.state = self.scope.setdefault("state", {})
        self.state |= {"key": None, "column": "", "body": b""}
        self.send_message = send
        self.size = 0  # of the body
        self.started = time.perf_counter()
        self.status = 500
        self.answering = False

    def asks_for_predictions(self) -> bool:
        return self.method == "POST" and PREDICT_PATHS.fullmatch(self.path) is not None

    async def send(self, message: Message) -> None:
        """Send an ASGI message; an answer's first one gets the headers."""
        if message["type"] == "http.response.start":
            self.answering = True
            self.status = message["status"]
            added = [*SECURITY_HEADERS, (b"x-request-id", self.id)]
            message["headers"] = [*message["headers"], *added]
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
        REQUEST_LOGGER.info("%s %s %d", method, route, self.status, extra=facts)


class Middleware:
    def __init__(
        self, app: ASGIApp, service: Service, keys: ApiKeys, limiter: RateLimiter | None
    ) -> None:
        self.app = app
        self.keys = keys
        self.limiter = limiter
        self.max_bytes = service.settings.max_body_mb * 2**20
        self.count_rejected = service.writer.count_rejected
        self.bytes_held = 0  # of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        metrics.IN_FLIGHT.inc()
        try:
            if not is_open(exchange.path):
                await self.admit(exchange)
                await self.read_body(exchange, receive)
            await self.answer(exchange, receive)
        except ClientDisconnect:  # in the middle of its body
            exchange.status = CLIENT_CLOSED
        except Exception as error:
            if not isinstance(error, HTTPException):  # the log has it, the client does not
                LOGGER.exception("request %s failed", exchange.id.decode())
            if exchange.answering:
                raise
            refusal = await refuse(Request(exchange.scope), error)
            await refusal(exchange.scope, receive, exchange.send)
        finally:
            self.bytes_held -= exchange.size
            metrics.IN_FLIGHT.dec()
            exchange.measure()
            if exchange.status in REJECTED and exchange.asks_for_predictions():
                self.count_rejected(REJECTED[exchange.status], exchange.state["column"])

    async def admit(self, exchange: Exchange) -> None:
        """Raise HTTPException if a request is not let in."""
        if self.keys.required:
            given = exchange.headers.get(b"x-api-key", b"").decode("utf-8", "surrogateescape")
            exchange.state["key"] = self.keys.key_name(given)
            if exchange.state["key"] is None:
                raise HTTPException(401, "X-API-Key is missing or wrong")
        elif not is_local(exchange.headers):
            raise HTTPException(403, "No API keys configured: only localhost requests are allowed")
        if self.limiter:
            await self.limiter.check(exchange.state["key"] or "")
        if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
            raise HTTPException(415, "send the body as it is, without a Content-Encoding")
        length = exchange.headers.get(b"content-length", b"0")
        self.check_size(int(length) if length.isdigit() else 0)

    def check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise HTTPException(413, f"the body is larger than {self.max_bytes} bytes")

    async def read_body(self, exchange: Exchange, receive: Receive) -> None:
        """Read the whole body. Raises HTTPException 408, 413 or 503."""
        parts = []
        more = True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    more = message.get("more_body", False)
                    parts.append(message.get("body", b""))
                    exchange.size += len(parts[-1])
                    self.bytes_held += len(parts[-1])
                    self.check_size(exchange.size)
                    if self.bytes_held > MAX_BYTES_HELD and exchange.size > SMALL_BODY:
                        reason = "the server is receiving too much at once"
                        raise HTTPException(503, reason, RETRY_AFTER)
        except TimeoutError:
            reason = f"the body did not arrive within {BODY_SECONDS} seconds"
            raise HTTPException(408, reason) from None
        exchange.state["body"] = b"".join(parts)

    async def answer(self, exchange: Exchange, receive: Receive) -> None:
        if (exchange.path, exchange.method) != (api.PREDICT, "POST"):
            await self.app(exchange.scope, receive, exchange.send)
            return
        span = trace.get_current_span()  # that of FastAPI, which knows no route here
        span.update_name(f"POST {api.PREDICT}")
        span.set_attribute("http.route", api.PREDICT)
        response = await api.predict(Request(exchange.scope))
        await response(exchange.scope, receive, exchange.send)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to a request that is refused, as the protocol of its path has it."""
    if not isinstance(error, HTTPException):
        error = HTTPException(500, "internal error")
    v2_text = error.detail
    if isinstance(error, Invalid):
        request.state.column = error.column
        v2_text = str(error)
    v2 = request.scope["path"].startswith("/v2")
    content = {"error": v2_text} if v2 else {"detail": error.detail}
    return JSONResponse(content, error.status_code, error.headers)
