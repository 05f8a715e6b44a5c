"""ASGI middleware: request id, authentication, limits, metrics.

Plain ASGI, because every request passes it. It calls the endpoint of /v1/predict itself: FastAPI's
layers cost as much as all the rest of a one-row request.
"""

import logging
import re
from collections.abc import Awaitable, Callable

from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_loop.serving import api, metrics
from mlops_loop.serving.http.auth import ApiKeys, is_local, is_open
from mlops_loop.serving.http.exchange import CLIENT_CLOSED, ERROR_KINDS, PREDICT, Exchange, Load
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.service import Service

PREDICT_PATHS = re.compile(r"/v1/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
REJECTED = {400, 413, 415, 422}  # for what was sent: the prediction log counts these
LOGGER = logging.getLogger("uvicorn.error")
Limit = Callable[[str], Awaitable[None]]  # takes the name of a key, and may raise HTTPException


class Middleware:
    def __init__(self, app: ASGIApp, service: Service, keys: ApiKeys, limit: Limit | None) -> None:
        self.app = app
        self.keys = keys
        self.limit = limit
        self.load = Load(service.settings.max_body_mb * 2**20)
        self.count_rejected = service.writer.count_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send, self.load)
        metrics.IN_FLIGHT.inc()
        try:
            if not is_open(exchange.path):
                await self.admit(exchange)
                await exchange.read_body(receive)
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
            exchange.release()
            metrics.IN_FLIGHT.dec()
            exchange.measure()
            self.count_if_rejected(exchange)

    async def admit(self, exchange: Exchange) -> None:
        """Raise HTTPException if a request is not let in."""
        if self.keys.required:
            given = exchange.headers.get(b"x-api-key", b"").decode("utf-8", "surrogateescape")
            exchange.state["key"] = self.keys.key_name(given)
            if exchange.state["key"] is None:
                raise HTTPException(401, "X-API-Key is missing or wrong")
        elif not is_local(exchange.headers):
            raise HTTPException(403, "No API keys configured: only localhost requests are allowed")
        if self.limit:
            await self.limit(exchange.state["key"] or "")
        if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
            raise HTTPException(415, "send the body as it is, without a Content-Encoding")
        length = exchange.headers.get(b"content-length", b"0")
        self.load.check_size(int(length) if length.isdigit() else 0)

    async def answer(self, exchange: Exchange, receive: Receive) -> None:
        if (exchange.path, exchange.method) != (PREDICT, "POST"):
            await self.app(exchange.scope, receive, exchange.send)
            return
        span = trace.get_current_span()  # that of FastAPI, which knows no route here
        span.update_name(f"POST {PREDICT}")
        span.set_attribute("http.route", PREDICT)
        response = await api.predict(Request(exchange.scope))
        await response(exchange.scope, receive, exchange.send)

    def count_if_rejected(self, exchange: Exchange) -> None:
        if exchange.status not in REJECTED or exchange.method != "POST":
            return
        if PREDICT_PATHS.fullmatch(exchange.path):
            self.count_rejected(ERROR_KINDS[exchange.status], exchange.state["column"])


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
