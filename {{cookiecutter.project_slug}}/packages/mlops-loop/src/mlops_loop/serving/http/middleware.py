"""ASGI middleware: request id, authentication, limits, metrics.

Plain ASGI, because every request passes it. It answers /v1/predict itself: FastAPI's layers cost
as much as all the rest of a one-row request.
"""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_loop.serving import metrics
from mlops_loop.serving.http.auth import OPEN_PATHS, ApiKeys, is_local, is_open
from mlops_loop.serving.http.rate_limit import RateLimiter
from mlops_loop.serving.http.request_body import Load, RequestBody
from mlops_loop.serving.http.telemetry import log_request
from mlops_loop.serving.ids import new_request_id

PREDICT = "/v1/predict"
# Labels of metrics, also for requests that do not reach a route; any other path is "other".
NAMED_PATHS = OPEN_PATHS | {PREDICT, "/v1/outcomes", "/v1/model"}
PREDICT_PATHS = re.compile(r"/v1/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CLIENT_CLOSED = 499  # as nginx has it
REJECTED = {400, 413, 415, 422}  # for what was sent: the prediction log counts these
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
LOGGER = logging.getLogger("uvicorn.error")
Headers = dict[bytes, bytes]
Handler = Callable[[Request], Awaitable[Response]]


class Denial(NamedTuple):
    status: int
    reason: str
    retry_after: int = 0  # seconds


class Exchange:
    """One request and its answer, which gets the headers that every answer has."""

    def __init__(self, scope: Scope, headers: Headers, send: Send) -> None:
        given = headers.get(b"x-request-id", b"")
        self.id = given if REQUEST_ID.fullmatch(given) else new_request_id().encode()
        self.method: str = scope["method"]
        # A slash at the end is no other place, and no reason for a redirect.
        self.path: str = scope["path"].rstrip("/") or "/"
        self.scope = {**scope, "path": self.path}
        if self.method == "HEAD":  # as GET; the server leaves out the body
            self.scope["method"] = "GET"
        self.send_message = send
        self.started = time.perf_counter()
        self.status = 500
        self.answering = False
        self.state = self.scope.setdefault("state", {})
        self.state["request_id"] = self.id.decode()
        self.state["key"] = None  # name of the API key
        self.state["column"] = ""  # that broke the contract, if one did

    async def send(self, message: Message) -> None:
        """Send an ASGI message; an answer's first one gets the headers."""
        if message["type"] == "http.response.start":
            self.answering = True
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            missing = [header for header in SECURITY_HEADERS if header[0] not in present]
            message["headers"] = [*message["headers"], *missing, (b"x-request-id", self.id)]
        await self.send_message(message)

    async def send_error(self, status: int, text: str, retry_after: int = 0) -> None:
        """Send an error as the protocol of the path has it."""
        key = "error" if self.path.startswith("/v2") else "detail"
        body = json.dumps({key: text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if retry_after:
            headers.append((b"retry-after", str(retry_after).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

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
            metrics.ERRORS.labels(error_kind(self.status)).inc()
        log_request(method, route, self.status, seconds, self.id.decode())


class Middleware:
    """`predict` answers /v1/predict; the app answers the rest.

    `count_rejected` gets the kind of each rejected request for predictions, and its column.
    """

    def __init__(
        self,
        app: ASGIApp,
        predict: Handler,
        keys: ApiKeys,
        limiter: RateLimiter | None,
        max_bytes: int,
        count_rejected: Callable[[str, str], None],
    ) -> None:
        self.app = app
        self.predict = predict
        self.keys = keys
        self.limiter = limiter
        self.max_bytes = max_bytes
        self.count_rejected = count_rejected
        self.load = Load()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = Exchange(scope, headers, send)
        body = RequestBody(self.load, receive, self.max_bytes)
        metrics.IN_FLIGHT.inc()
        try:
            if denial := await self.deny(exchange, headers):
                await exchange.send_error(*denial)
            else:
                await self.answer(body, exchange)
        except ClientDisconnect:  # in the middle of its body
            exchange.status = CLIENT_CLOSED
        except Exception:  # unhandled: the log has it, the client does not
            LOGGER.exception("request %s failed", exchange.id.decode())
            if exchange.answering:
                raise
            await exchange.send_error(500, "internal error")
        finally:
            body.release()
            metrics.IN_FLIGHT.dec()
            exchange.measure()
            self.count_if_rejected(exchange)

    async def answer(self, body: RequestBody, exchange: Exchange) -> None:
        if exchange.path != PREDICT:
            await self.app(exchange.scope, body.receive, exchange.send)
            return
        span = trace.get_current_span()  # that of FastAPI, which knows no route here
        span.update_name(f"{exchange.method} {PREDICT}")
        span.set_attribute("http.route", PREDICT)
        response = await self.predict(Request(exchange.scope, body.receive))
        await response(exchange.scope, body.receive_part, exchange.send)

    async def deny(self, exchange: Exchange, headers: Headers) -> Denial | None:
        """Return why a request is not let in."""
        if is_open(exchange.path):
            return None
        if not self.keys.required:
            if not is_local(headers):
                reason = "No API keys configured: only localhost requests are allowed"
                return Denial(403, reason)
        else:
            given = headers.get(b"x-api-key", b"").decode("utf-8", "surrogateescape")
            exchange.state["key"] = self.keys.key_name(given)
            if exchange.state["key"] is None:
                return Denial(401, "X-API-Key is missing or wrong")
        if self.limiter:
            seconds = await self.limiter.seconds_to_wait(exchange.state["key"] or "")
            if seconds:
                return Denial(429, "too many requests with this key", seconds)
        return self.deny_body(headers)

    def deny_body(self, headers: Headers) -> Denial | None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return Denial(415, "send the body as it is, without a Content-Encoding")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return Denial(413, f"the body is larger than {self.max_bytes} bytes")
        return None

    def count_if_rejected(self, exchange: Exchange) -> None:
        if exchange.status not in REJECTED or exchange.method != "POST":
            return
        if PREDICT_PATHS.fullmatch(exchange.path):
            self.count_rejected(ERROR_KINDS[exchange.status], exchange.state["column"])


def error_kind(status: int) -> str:
    return ERROR_KINDS.get(status, "server" if status >= 500 else "other")
