"""The HTTP API around a bundle. Its types and texts come from the bundle's contract."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.serving import metrics, monitor_metrics
from mlops_loop.serving.hot_reload import watch
from mlops_loop.serving.http.auth import ApiKeys
from mlops_loop.serving.http.middleware import Middleware
from mlops_loop.serving.http.rate_limit import RateLimiter
from mlops_loop.serving.http.telemetry import tracing_options
from mlops_loop.serving.open_inference import routes as open_inference
from mlops_loop.serving.openapi import document
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.routes import api, pages
from mlops_loop.serving.routes.api import add_documentation
from mlops_loop.serving.routes.predict import http_error, invalid_request, predict_handler
from mlops_loop.serving.service import Service

GAUGE_SECONDS = 1.0  # between two updates of the gauges
MONITOR_SECONDS = 30.0  # between two reads of what the monitor found
LOGGER = logging.getLogger("uvicorn.error")


def create_app() -> FastAPI:
    """Return the API of the bundle in BUNDLE, with its prediction log."""
    settings = load_settings()
    service = Service(settings)
    keys = ApiKeys(settings)
    app = FastAPI(
        title=current_project().name,
        lifespan=lifespan(service),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracing_options(),
    )
    app.state.service = service
    app.include_router(api.router(service))
    app.include_router(open_inference.router(service))
    app.include_router(pages.router(service, keys.required))
    add_documentation(app)
    add_error_handlers(app, service)
    limiter = None
    if settings.rate_limit:
        limiter = RateLimiter(settings.rate_limit, settings.rate_limit_url.get_secret_value())
    app.openapi = lambda: document(app, service.model, keys.required, limiter is not None)  # type: ignore[method-assign]
    app.add_middleware(
        Middleware,
        predict=predict_handler(service),
        keys=keys,
        limiter=limiter,
        max_bytes=settings.max_body_mb * 2**20,
        count_rejected=service.writer.count_rejected,
    )
    return app


def add_error_handlers(app: FastAPI, service: Service) -> None:
    @app.exception_handler(Invalid)
    async def invalid(request: Request, error: Invalid) -> JSONResponse:
        return invalid_request(service, request, error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return http_error(request, error)


def lifespan(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        service.writer.start()
        reload_now, stop_watching = watch(list(service.followers.values()))
        with suppress(ValueError, AttributeError):  # not in the main thread, or on Windows
            signal.signal(signal.SIGHUP, lambda *_: reload_now())
        tasks = [
            asyncio.create_task(update_gauges(service)),
            asyncio.create_task(update_monitor_gauges(service)),
        ]
        gc.freeze()  # what exists by now stays: the collector need not visit it again
        # Reference counts free the thousands of objects of a request with many rows; with Python's
        # own limit of 700 the collector took a tenth of the event loop's time.
        gc.set_threshold(50_000, 20, 50)
        yield
        for task in tasks:
            task.cancel()
        stop_watching()
        await asyncio.to_thread(service.writer.close)

    return run


async def update_gauges(service: Service) -> None:
    """Keep the gauges of this process up to date."""
    while True:
        try:
            metrics.set_state(service.followers, service.writer.status(), service.ready)
        except Exception:  # of whatever kind: the next update may work
            LOGGER.exception("the gauges could not be updated")
        await asyncio.sleep(GAUGE_SECONDS)


async def update_monitor_gauges(service: Service) -> None:
    """Keep what `monitor` found last among the metrics."""
    while True:
        try:
            await asyncio.to_thread(monitor_metrics.refresh, service)
        except Exception:  # of whatever kind: the next update may work
            LOGGER.exception("the monitor's gauges could not be updated")
        await asyncio.sleep(MONITOR_SECONDS)
