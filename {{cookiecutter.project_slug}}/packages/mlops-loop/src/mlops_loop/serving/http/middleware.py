"""Guard: what every request passes before it reaches the API, and every answer on its way out.

Written as plain ASGI, because it is on the way of every request. It gives each request an id, asks
for a key, limits how large, how many and how often requests may be, and measures them.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mlops_loop.serving import metrics
from mlops_loop.serving.http.auth import Keys
from mlops_loop.serving.http.rate_limit import Limiter
from mlops_loop.serving.http.telemetry import log_request

OPEN = {
    "/",
    "/page.js",
    "/docs",
    "/docs/oauth2-redirect",
    "/openapi.json",
    "/metrics",
    "/status",
    "/v2",
}
OPEN_UNDER = "/health/", "/v2/health/", "/static-offline-docs/"  # all else needs a key
READY = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")
COUNTED = OPEN | {"/v1/predict", "/v1/outcomes", "/v1/model"}  # by name, also if they are refused
QUEUED = 512  # requests that may be worked on in one process
HELD = 256 << 20  # bytes of bodies; above, only small ones are taken
SMALL = 64 << 10
SECONDS = 10  # in which a request's body must come
ASKED = re.compile(r"/v1/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")  # for predictions
REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
LOGGER = logging.getLogger("uvicorn.error")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
AGAIN = {"Retry-After": "1"}
Handler = Callable[[Request], Awaitable[Response]]
REFUSED = {400, 413, 415, 422}  # for what was sent: the prediction log counts these
KINDS = {
    400: "malformed",
    401: "key",
    403: "foreign",
    408: "slow",
    413: "size",
    415: "type",
    422: "contract",
    429: "rate",
    499: "gone",
    503: "busy",
}


class Guard:
    """`hot` has handlers by path that a POST goes to directly, and not through the app.

    `refused` is told the kind of each request for predictions that is refused, and the column, if it has one.
    """

    def __init__(
        self,
        app: Any,
        keys: Keys,
        limiter: Limiter,
        max_bytes: int,
        hot: Mapping[str, Handler],
        refused: Callable[[str, str], None],
    ) -> None:
        self.app, self.keys, self.limiter, self.max_bytes, self.hot = (
            app,
            keys,
            limiter,
            max_bytes,
            hot,
        )
        self.refused = refused
        self.working = self.held = 0  # whole requests, and bytes of all

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, headers, status, begun = time.perf_counter(), dict(scope["headers"]), 500, False
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
        state = scope.setdefault("state", {})
        state["request_id"], state["key"], state["column"] = request_id.decode(), None, ""

        async def answer(message: Any) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                have = {name for name, _ in message["headers"]}
                extra = [header for header in HEADERS if header[0] not in have]
                message["headers"] = [*message["headers"], *extra, (b"x-request-id", request_id)]
            await send(message)

        body = Body(self, receive)
        metrics.IN_FLIGHT.inc()
        try:
            problem = self.refuse(scope, headers, state)
            if problem:
                await say(answer, scope["path"], *problem)
            elif scope["method"] == "POST" and (handler := self.hot.get(scope["path"])):
                response = await handler(Request(scope, body.receive))
                await response(scope, receive, answer)
            else:
                await self.app(scope, body.receive, answer)
        except ClientDisconnect:  # in the middle of its body
            status = 499  # as nginx has it
        except Exception:  # a mistake of ours: said in the log, not to the client
            LOGGER.exception("request %s failed", state["request_id"])
            if begun:
                raise
            await say(answer, scope["path"], 500, "internal error", 0)
        finally:
            body.forget()
            metrics.IN_FLIGHT.dec()
            taken = time.perf_counter() - started
            path = getattr(scope.get("route"), "path", "")  # the template: what is sent is no label
            path = path or (scope["path"] if scope["path"] in COUNTED else "other")
            self.measure(scope["method"], path, status, taken, state["request_id"])
            if status in REFUSED and ASKED.fullmatch(scope["path"]) and scope["method"] == "POST":
                self.refused(KINDS[status], state["column"])

    def refuse(
        self, scope: Any, headers: dict[bytes, bytes], state: Any
    ) -> tuple[int, str, int] | None:
        """Return status, reason and seconds to wait of a request that is not let in."""
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_UNDER) or READY.fullmatch(path):
            return None
        if not self.keys.asked and not local(headers):
            return 403, "without API keys only this machine is answered", 0
        if self.keys.asked:
            given = headers.get(b"x-api-key", b"").decode("utf-8", "surrogateescape")
            state["key"] = self.keys.name(given)
            if state["key"] is None:
                return 401, "X-API-Key is missing or wrong", 0
        if seconds := self.limiter.wait(state["key"] or ""):
            return 429, "too many requests with this key", seconds
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return 415, "send the body as it is, without a Content-Encoding", 0
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return 413, f"the body is larger than {self.max_bytes} bytes", 0
        return None

    def measure(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        method = method if method in METHODS else "OTHER"
        metrics.REQUESTS.labels(path, method, status).inc()
        metrics.LATENCY.labels(path).observe(seconds)
        if status >= 400:
            metrics.ERRORS.labels(KINDS.get(status, "server" if status >= 500 else "other")).inc()
        log_request(method, path, status, seconds, request_id)


class Body:
    """The body of a request as it comes: too large, too slow or too many are given up."""

    def __init__(self, guard: Guard, receive: Any) -> None:
        self.guard, self.given = guard, receive
        self.size, self.whole, self.end = 0, False, time.monotonic() + SECONDS

    async def receive(self) -> Any:
        """Return the next part, as ASGI has it; raise a 408, 413 or 503."""
        if self.whole:  # only the end of the connection can come, at any time
            return await self.given()
        try:
            async with asyncio.timeout(max(0, self.end - time.monotonic())):
                message = await self.given()
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {SECONDS} seconds") from None
        guard, part = self.guard, len(message.get("body", b""))
        self.size, guard.held = self.size + part, guard.held + part
        if self.size > guard.max_bytes:
            raise HTTPException(413, f"the body is larger than {guard.max_bytes} bytes")
        if guard.held > HELD and self.size > SMALL:
            raise HTTPException(503, "too much is being sent", AGAIN)
        if not message.get("more_body"):
            if guard.working >= QUEUED:
                raise HTTPException(503, "too many requests are waiting", AGAIN)
            self.whole, guard.working = True, guard.working + 1
        return message

    def forget(self) -> None:
        self.guard.held -= self.size
        self.guard.working -= self.whole


def local(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request is for this machine by a name of its own, and not sent by another site's page.

    Browsers send what any page tells them to, also to this machine.
    """
    host, origin = headers.get(b"host", b"").lower(), headers.get(b"origin", b"").lower()
    return loopback(host) and (not origin or origin.partition(b"://")[2] == host)


@lru_cache(64)
def loopback(host: bytes) -> bool:
    name = re.sub(r":\d+$", "", host.decode("latin-1")).strip("[]")
    if name in ("", "localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


async def say(send: Any, path: str, status: int, text: str, seconds: int) -> None:
    """Send a refusal in the words of the protocol that was asked."""
    body = json.dumps({"error": text} if path.startswith("/v2") else {"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if seconds:
        headers.append((b"retry-after", str(seconds).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
