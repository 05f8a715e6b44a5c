"""The HTTP API around a bundle. Its types and texts come from the bundle's contract."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from fastapi import FastAPI, Security
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.serving import api, openapi
from mlops_loop.serving.http.auth import ApiKeys, RateLimiter
from mlops_loop.serving.http.middleware import Middleware, refuse
from mlops_loop.serving.http.telemetry import tracing_options
from mlops_loop.serving.metrics import NewestWindow
from mlops_loop.serving.open_inference import routes as open_inference
from mlops_loop.serving.service import Service

PAUSE = 0.5  # seconds between two looks at the bundles
LOGGER = logging.getLogger("uvicorn.error")


def create_app() -> FastAPI:
    """Return the API of the bundle in BUNDLE, with its prediction log."""
    settings = load_settings()
    app = FastAPI(
        title=current_project().name,
        lifespan=run,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracing_options(),
        exception_handlers={HTTPException: refuse},
    )
    service = app.state.service = Service(settings)
    keys = app.state.keys = ApiKeys(settings)
    app.state.newest_window = NewestWindow(service.writer, settings.mlflow_experiment_name)
    limiter = None
    errors = openapi.KEY_ERRORS if keys.required else openapi.NO_KEY_ERRORS
    if settings.rate_limit:
        limiter = RateLimiter(settings.rate_limit, settings.rate_limit_url.get_secret_value())
        errors = errors | openapi.RATE_ERRORS
    # The middleware checks the key: this is for the documentation.
    documented = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))]
    app.include_router(
        api.ROUTER,
        responses=openapi.error_responses(errors),
        dependencies=documented if keys.required else [],
    )
    for router in (api.HEALTH, api.PAGES, open_inference.ROUTER):
        app.include_router(router)
    static = str(files("fastapi_offline").joinpath("static"))
    app.mount("/static-offline-docs", StaticFiles(directory=static))
    app.openapi = lambda: openapi.document(app, service.model)  # type: ignore[method-assign]
    app.add_middleware(Middleware, service=service, keys=keys, limiter=limiter)
    return app


@asynccontextmanager
async def run(app: FastAPI) -> AsyncIterator[None]:
    """Run what the service needs beside its requests."""
    service: Service = app.state.service
    service.writer.start()
    with suppress(ValueError, AttributeError):  # not in the main thread, or on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would end the process
    watching = asyncio.create_task(watch(service))
    gc.freeze()  # what exists by now stays: the collector need not visit it again
    # Reference counts free the thousands of objects of a request with many rows; with Python's
    # own limit of 700 the collector took a tenth of the event loop's time.
    gc.set_threshold(50_000, 20, 50)
    yield
    watching.cancel()
    await asyncio.to_thread(service.writer.close)


async def watch(service: Service) -> None:
    while True:
        try:
            await asyncio.to_thread(service.refresh)
        except Exception:  # of whatever kind: the next time may find it mended
            LOGGER.exception("bundles and gauges are as they were")
        await asyncio.sleep(PAUSE)
