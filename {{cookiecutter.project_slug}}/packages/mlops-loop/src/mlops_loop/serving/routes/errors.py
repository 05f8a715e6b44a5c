"""Errors as JSON: `detail` as FastAPI has it, or `error` under /v2 as its protocol has it."""

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mlops_loop.serving.http.middleware import Handler
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid
from mlops_loop.serving.service import Service

InvalidHandler = Callable[[Request, Invalid], JSONResponse]


def invalid_request(service: Service) -> InvalidHandler:
    def handle(request: Request, error: Invalid) -> JSONResponse:
        if error.column in service.model.bundle.schema.columns or error.column == NOT_A_COLUMN:
            request.state.column = error.column  # the middleware counts it
        if request.url.path.startswith("/v2"):
            where = ", ".join(map(str, error.place[1:]))
            text = f"{where}: {error}" if where else str(error)
            return JSONResponse({"error": text}, error.status)
        return JSONResponse({"detail": error.detail}, error.status)

    return handle


def http_error(request: Request, error: HTTPException) -> JSONResponse:
    key = "error" if request.url.path.startswith("/v2") else "detail"
    return JSONResponse({key: error.detail}, error.status_code, error.headers)


def add_error_handlers(app: FastAPI, handle_invalid: InvalidHandler) -> None:
    @app.exception_handler(Invalid)
    async def invalid(request: Request, error: Invalid) -> JSONResponse:
        return handle_invalid(request, error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return http_error(request, error)


def with_error_handlers(handler: Handler, handle_invalid: InvalidHandler) -> Handler:
    """Return the handler with its errors answered, for calls that bypass the framework."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Invalid as error:
            return handle_invalid(request, error)
        except HTTPException as error:
            return http_error(request, error)

    return handle
