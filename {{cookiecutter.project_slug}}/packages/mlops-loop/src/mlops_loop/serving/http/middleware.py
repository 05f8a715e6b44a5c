"""ASGI middleware: request id, authentication, limits, metrics.

Plain ASGI, because every request passes it.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_loop.serving import metrics
from mlops_loop.serving.http.access import OPEN_PATHS, is_local, is_open
from mlops_loop.serving.http.auth import ApiKeys
from mlops_loop.serving.http.exchange import Exchange
from mlops_loop.serving.http.rate_limit import RateLimiter
from mlops_loop.serving.http.request_body import Load, RequestBody
from mlops_loop.serving.http.telemetry import log_request

# Labels of metrics, also for requests that do not reach a route; any other path is "other".
NAMED_PATHS = OPEN_PATHS | {"/v1/predict", "/v1/outcomes", "/v1/model"}
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
LOGGER = logging.getLogger("uvicorn.error")
Handler = Callable[[Request], Awaitable[Response]]


class Denial(NamedTuple):
    status: int
    reason: str
    retry_after: int = 0  # seconds


class Middleware:
    """`direct` holds handlers by path, which a POST reaches without the framework's layers.

    `count_rejected` gets the kind of each rejected request for predictions, and its column.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        limiter: RateLimiter,
        max_bytes: int,
        direct: Mapping[str, Handler],
        count_rejected: Callable[[str, str], None],
    ) -> None:
        self.app = app
        self.keys = keys
        self.limiter = limiter
        self.max_bytes = max_bytes
        self.direct = direct
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
            if denial := self.deny(exchange.path, headers, scope["state"]):
                await exchange.send_error(*denial)
            else:
                await self.answer(scope, body, exchange)
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
            self.measure(scope, exchange)

    async def answer(self, scope: Scope, body: RequestBody, exchange: Exchange) -> None:
        handler = self.direct.get(exchange.path) if scope["method"] == "POST" else None
        if handler is None:
            await self.app(scope, body.receive, exchange.send)
        else:
            response = await handler(Request(scope, body.receive))
            await response(scope, body.receive_part, exchange.send)

    def deny(
        self, path: str, headers: dict[bytes, bytes], state: dict[str, str | None]
    ) -> Denial | None:
        """Return why a request is not let in."""
        if is_open(path):
            return None
        if not self.keys.required:
            if not is_local(headers):
                reason = "No API keys configured: only localhost requests are allowed"
                return Denial(403, reason)
        else:
            given = headers.get(b"x-api-key", b"").decode("utf-8", "surrogateescape")
            state["key"] = self.keys.key_name(given)
            if state["key"] is None:
                return Denial(401, "X-API-Key is missing or wrong")
        if seconds := self.limiter.seconds_to_wait(state["key"] or ""):
            return Denial(429, "too many requests with this key", seconds)
        return self.deny_body(headers)

    def deny_body(self, headers: dict[bytes, bytes]) -> Denial | None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return Denial(415, "send the body as it is, without a Content-Encoding")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return Denial(413, f"the body is larger than {self.max_bytes} bytes")
        return None

    def measure(self, scope: Scope, exchange: Exchange) -> None:
        """Count and log a request under its route: what a client sends becomes no label."""
        status = exchange.status
        seconds = time.perf_counter() - exchange.started
        route = getattr(scope.get("route"), "path", "")
        if not route:
            route = exchange.path if exchange.path in NAMED_PATHS else "other"
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        metrics.REQUESTS.labels(route, method, status).inc()
        metrics.LATENCY.labels(route).observe(seconds)
        if status >= 400:
            metrics.ERRORS.labels(error_kind(status)).inc()
        log_request(method, route, status, seconds, exchange.id.decode())
        if status in REJECTED and method == "POST" and PREDICT_PATHS.fullmatch(exchange.path):
            self.count_rejected(ERROR_KINDS[status], scope["state"]["column"])


def error_kind(status: int) -> str:
    return ERROR_KINDS.get(status, "server" if status >= 500 else "other")
