"""The HTTP API around a bundle. Its types and texts come from the bundle's contract."""

import asyncio
import gc
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline  # /docs without a network

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.serving import metrics, monitor_metrics
from mlops_loop.serving.hot_reload import watch
from mlops_loop.serving.http.auth import ApiKeys
from mlops_loop.serving.http.middleware import Handler, Middleware
from mlops_loop.serving.http.rate_limit import RateLimiter
from mlops_loop.serving.http.telemetry import tracing_options
from mlops_loop.serving.open_inference import routes as open_inference
from mlops_loop.serving.openapi import document
from mlops_loop.serving.routes import health, model, outcomes, pages, predictions
from mlops_loop.serving.routes.errors import (
    add_error_handlers,
    invalid_request,
    with_error_handlers,
)
from mlops_loop.serving.service import Service

GAUGE_SECONDS = 1.0  # between two updates of the gauges
MONITOR_SECONDS = 30.0  # between two reads of what the monitor found
LOGGER = logging.getLogger("uvicorn.error")


def create_app() -> FastAPI:
    """Return the API of the bundle in BUNDLE, with its prediction log."""
    settings = load_settings()
    service = Service(settings)
    keys = ApiKeys(settings)
    app: FastAPI = FastAPIOffline(
        title=current_project().name,
        lifespan=lifespan(service),
        redoc_url=None,
        telemetry=tracing_options(),
    )
    app.state.service = service
    handle_invalid = invalid_request(service)
    add_error_handlers(app, handle_invalid)
    predict = predictions.predict_handler(service)
    app.include_router(predictions.router(predict), tags=["predictions"])
    app.include_router(outcomes.router(service), tags=["predictions"])
    app.include_router(open_inference.router(service))
    app.include_router(model.router(service), tags=["model"])
    app.include_router(health.router(service), tags=["health"])
    app.include_router(pages.router(service, keys.required))
    rate_limited = settings.rate_limit > 0
    app.openapi = lambda: document(app, service.model, keys.required, rate_limited)  # type: ignore[method-assign]
    add_middleware(app, settings, keys, with_error_handlers(predict, handle_invalid))
    return app


def add_middleware(app: FastAPI, settings: Settings, keys: ApiKeys, predict: Handler) -> None:
    # FastAPI's layers cost as much as all the rest of a one-row request, so /v1/predict bypasses
    # them. Its spans are FastAPI's, so with tracing it does not.
    direct = {} if tracing_options()["tracing"] else {"/v1/predict": predict}
    # All processes of `serve --workers` share one folder.
    folder = Path(os.environ.get(metrics.FOLDER) or tempfile.mkdtemp())
    app.add_middleware(
        Middleware,
        keys=keys,
        limiter=RateLimiter(settings.rate_limit, folder),
        max_bytes=settings.max_body_mb * 2**20,
        direct=direct,
        count_rejected=app.state.service.writer.count_rejected,
    )


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
