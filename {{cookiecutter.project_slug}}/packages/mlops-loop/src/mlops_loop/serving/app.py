"""The HTTP API around a bundle. Its types and texts come from the bundle's contract."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.serving import api
from mlops_loop.serving.http.auth import ApiKeys
from mlops_loop.serving.http.middleware import Middleware, refuse
from mlops_loop.serving.http.telemetry import tracing_options
from mlops_loop.serving.monitor_metrics import NewestWindow
from mlops_loop.serving.open_inference import routes as open_inference
from mlops_loop.serving.openapi import document
from mlops_loop.serving.service import Service

PAUSE = 0.5  # seconds between two looks at the bundles, and two updates of the gauges
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
    app.state.newest_window = NewestWindow(service)
    for router in (api.ROUTER, api.PAGES, open_inference.ROUTER):
        app.include_router(router)
    static = str(files("fastapi_offline").joinpath("static"))
    app.mount("/static-offline-docs", StaticFiles(directory=static))
    limit = None
    if settings.rate_limit:  # most servers have none, and do without what it needs
        from mlops_loop.serving.http.rate_limit import RateLimiter

        url = settings.rate_limit_url.get_secret_value()
        limit = RateLimiter(settings.rate_limit, url).check
    app.openapi = lambda: document(app, service.model, keys.required, limit is not None)  # type: ignore[method-assign]
    app.add_middleware(Middleware, service=service, keys=keys, limit=limit)
    return app


@asynccontextmanager
async def run(app: FastAPI) -> AsyncIterator[None]:
    """Run what the service needs beside its requests."""
    service: Service = app.state.service
    service.writer.start()
    service.set_gauges()
    now = asyncio.Event()
    tasks = [
        asyncio.create_task(repeat(action, now)) for action in (service.follow, service.set_gauges)
    ]
    loop = asyncio.get_running_loop()
    with suppress(ValueError, AttributeError):  # not in the main thread, or on Windows
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(now.set))
    gc.freeze()  # what exists by now stays: the collector need not visit it again
    # Reference counts free the thousands of objects of a request with many rows; with Python's
    # own limit of 700 the collector took a tenth of the event loop's time.
    gc.set_threshold(50_000, 20, 50)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(service.writer.close)


async def repeat(action: Callable[[], None], now: asyncio.Event) -> None:
    """Run an action again and again in a thread, and at once when the event is set."""
    while True:
        try:
            await asyncio.to_thread(action)
        except Exception:  # of whatever kind: the next time may find it mended
            LOGGER.exception("%s failed", action.__name__)
        with suppress(TimeoutError):
            await asyncio.wait_for(now.wait(), PAUSE)
        now.clear()
