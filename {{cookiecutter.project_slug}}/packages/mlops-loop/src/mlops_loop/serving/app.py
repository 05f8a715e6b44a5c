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
from mlops_loop.serving import metrics
from mlops_loop.serving.hot_reload import watch
from mlops_loop.serving.http.auth import ApiKeys
from mlops_loop.serving.http.middleware import Handler, Middleware
from mlops_loop.serving.http.rate_limit import RateLimiter
from mlops_loop.serving.http.telemetry import tracing_options
from mlops_loop.serving.open_inference import routes as open_inference
from mlops_loop.serving.openapi import document
from mlops_loop.serving.pages.recorder import Recorder
from mlops_loop.serving.routes import health, model, outcomes, pages, predictions
from mlops_loop.serving.routes.errors import (
    add_error_handlers,
    invalid_request,
    with_error_handlers,
)
from mlops_loop.serving.service import Service

GAUGE_SECONDS = 1.0  # between two updates of the gauges
LOGGER = logging.getLogger("uvicorn.error")


def create_app() -> FastAPI:
    """Return the API of the bundle in BUNDLE, with its prediction log."""
    settings = load_settings()
    service = Service(settings)
    keys = ApiKeys(settings)
    recorder = Recorder(service)
    app: FastAPI = FastAPIOffline(
        title=current_project().name,
        lifespan=lifespan(service, recorder),
        redoc_url=None,
        telemetry=tracing_options(),
    )
    app.state.service = service
    handle_invalid = invalid_request(service)
    add_error_handlers(app, handle_invalid)
    predict = predictions.predict_handler(service)
    for router in (
        predictions.router(predict),
        outcomes.router(service),
        open_inference.router(service),
        model.router(service),
        health.router(service),
        pages.router(service, recorder, keys.required),
    ):
        app.include_router(router)
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


def lifespan(
    service: Service, recorder: Recorder
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        service.writer.start()
        recorder.start()
        reload_now, stop_watching = watch(list(service.followers.values()))
        with suppress(ValueError, AttributeError):  # not in the main thread, or on Windows
            signal.signal(signal.SIGHUP, lambda *_: reload_now())
        gauges = asyncio.create_task(update_gauges(service))
        gc.freeze()  # what exists by now stays: the collector need not visit it again
        yield
        gauges.cancel()
        stop_watching()
        recorder.stop()
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
