"""App: the HTTP API around a bundle. Its types and texts come from the bundle's contract."""

import asyncio
import gc
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline  # /docs without a network
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.scoring.predictions import answer_schema, with_ids
from mlops_loop.serving import metrics
from mlops_loop.serving.ground_truth import ANY_ID, RECORDED, outcomes_schema, read_outcomes
from mlops_loop.serving.hot_reload import watch
from mlops_loop.serving.http import telemetry
from mlops_loop.serving.http.auth import Keys
from mlops_loop.serving.http.middleware import Guard
from mlops_loop.serving.http.rate_limit import Limiter
from mlops_loop.serving.loaded_model import Served
from mlops_loop.serving.open_inference import routes
from mlops_loop.serving.pages import model_page, status
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid, row_schema, rows_schema
from mlops_loop.serving.service import AGAIN, Answered, Service

JSON = "application/json"
PAUSE = 1.0  # seconds between two looks at the gauges
SHOWN = {"name", "task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}
ERROR = {"type": "object", "properties": {"detail": {}}, "required": ["detail"]}
CODES = {
    400: "Not JSON, or a key is there twice",
    401: "X-API-Key is missing or wrong",
    403: "There are no API keys, and the request does not come from this machine",
    408: "The body came too slowly",
    413: "Too many bytes or rows",
    415: "Not application/json, or compressed",
    422: "The contract does not allow it",
    429: "Too many requests with this key",
    503: "Too busy, or the prediction log takes no more: Retry-After says when to try again",
}
LOGGER = logging.getLogger("uvicorn.error")
encode = msgspec.json.Encoder().encode


def content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {JSON: {"schema": schema}}}


def refers(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def operation(body: str, answer: str) -> dict[str, Any]:
    """Return what OpenAPI says of an endpoint that takes and gives JSON, and asks for a key."""
    codes = {
        str(code): {"description": text, "content": {JSON: refers("Error")}}
        for code, text in CODES.items()
    }
    done = {"200": {"description": "Done", "content": {JSON: refers(answer)}}}
    return {
        "requestBody": {"required": True, "content": {JSON: refers(body)}},
        "responses": done | codes,
    }


def create_app() -> FastAPI:
    """Return the API of the bundle in BUNDLE, with its prediction log."""
    settings = load_settings()
    service = Service(settings)
    keys = Keys(settings)
    recorder = status.Recorder(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.writer.start()
        recorder.start()
        look, end = watch(list(service.followers.values()))
        with suppress(ValueError, AttributeError):  # not in the main thread, or not on Windows
            signal.signal(signal.SIGHUP, lambda *_: look())
        gauges = asyncio.create_task(show(service))
        gc.freeze()  # all that is there by now stays: no use in looking through it again and again
        yield
        gauges.cancel()
        end()
        recorder.end()
        await asyncio.to_thread(service.writer.close)

    about: Any = {
        "title": current_project().name,
        "redoc_url": None,
        "telemetry": telemetry.telemetry(),
    }
    app: FastAPI = FastAPIOffline(lifespan=lifespan, **about)
    limiter = Limiter(
        settings.rate_limit, Path(os.environ.get(metrics.FOLDER) or tempfile.mkdtemp())
    )
    app.state.service = service

    @app.exception_handler(Invalid)
    async def invalid(request: Request, error: Invalid) -> JSONResponse:
        if error.column in service.model.bundle.schema.features or error.column == NOT_A_COLUMN:
            request.state.column = error.column  # which the guard counts
        if request.url.path.startswith("/v2"):
            where = ", ".join(map(str, error.place[1:]))
            return JSONResponse(
                {"error": f"{where}: {error}" if where else str(error)}, error.status
            )
        return JSONResponse({"detail": error.detail}, error.status)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        word = "error" if request.url.path.startswith("/v2") else "detail"
        return JSONResponse({word: error.detail}, error.status_code, error.headers)

    @app.post("/v1/predict", openapi_extra=operation("Rows", "Answer"), summary="Predict")
    async def predict(request: Request) -> Response:
        """Score the rows; every prediction is in the log before it is answered."""
        again = request.headers.get("idempotency-key")
        # While it waits for the log, a request holds its answer and no more: not its body, nor its rows.
        entry, text, task = score(await json_body(request), request.state.key, again)
        if before := await service.finish(entry, again):
            text = answer(before)  # the first time counts
        return Response(text, media_type=JSON, background=task)

    def score(
        body: bytes, key: str | None, again: str | None
    ) -> tuple[Entry, bytes, BackgroundTask | None]:
        entry, found, task = service.begin(body, lambda model: model.reader.read(body), key, again)
        return entry, answer(found), task

    @app.post("/v1/outcomes", openapi_extra=operation("Outcomes", "Recorded"), summary="Outcomes")
    async def outcomes(request: Request) -> Response:
        """Record what really happened. A later value of the same prediction replaces the earlier one."""
        pairs = read_outcomes(await json_body(request), service.model.bundle.schema)
        try:
            recorded = await asyncio.to_thread(record_ground_truth, service.writer.engine, pairs)
        except SQLAlchemyError:
            raise HTTPException(
                503, "the prediction log is out of reach; try again", AGAIN
            ) from None
        return JSONResponse(recorded._asdict())

    async def direct(request: Request) -> Response:
        """Predict without the layers of the framework: they take as long as all the rest of a row."""
        try:
            return await predict(request)
        except Invalid as error:
            return await invalid(request, error)
        except HTTPException as error:
            return await refused(request, error)

    app.include_router(routes.router(service))

    @app.get("/v1/model", responses=dict.fromkeys((401, 403, 429), content(ERROR)))
    async def model() -> dict[str, Any]:
        """Say which model answers, how good it was on its test window, and who promoted it."""
        bundle = service.model.bundle
        facts = {key: value for key, value in bundle.manifest.items() if key in SHOWN}
        return {"version": bundle.version, "promotion": bundle.promotion, **facts}

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", responses={503: content(ERROR)})
    async def ready() -> dict[str, Any]:
        """Say whether requests are answered; and what is not as it should be, although they are."""
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", AGAIN)
        found: dict[str, Any] = {"status": "ready", "model_version": service.model.version}
        if challenger := service.challenger.model:
            found["challenger"] = challenger.version
        if refused := {name: one.refused for name, one in service.followers.items() if one.refused}:
            found["refused"] = refused
        return found | {"log": service.writer.status()._asdict()}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.TYPE)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def first_page() -> HTMLResponse:
        return HTMLResponse(
            model_page.html(service.model.bundle, keys.asked), headers=model_page.HEADERS
        )

    @app.get("/status", response_class=HTMLResponse, include_in_schema=False)
    def status_page() -> HTMLResponse:
        return HTMLResponse(status.html(service, recorder), headers=model_page.HEADERS)

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return Response(model_page.SCRIPT, media_type="text/javascript")

    def openapi() -> dict[str, Any]:
        """Return the document of what is served now: a new model may come with another contract."""
        bundle = service.model.bundle
        about: Any = {
            "title": current_project().name,
            "version": bundle.version,
            "description": bundle.schema.description,
        }
        document: dict[str, Any] = get_openapi(routes=app.routes, **about)
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {}).update(
            {
                "Row": row_schema(bundle.schema),
                "Rows": rows_schema(bundle.manifest["example"]),
                "Answer": answer_schema(bundle.manifest) | {"example": example(service.model)},
                "Outcomes": outcomes_schema(bundle.schema),
                "Recorded": RECORDED,
                "Error": ERROR,
            }
        )
        parts["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        for path, operations in document["paths"].items():
            for told in operations.values():
                if not path.startswith(("/health", "/v2/health")):
                    told["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    hot = (
        {} if telemetry.telemetry()["tracing"] else {"/v1/predict": direct}
    )  # a span is the framework's
    limits: Any = {"limiter": limiter, "max_bytes": settings.max_body_mb * 2**20}
    app.add_middleware(Guard, keys=keys, hot=hot, refused=service.writer.count_rejected, **limits)
    return app


def example(model: Served) -> dict[str, Any]:
    """Return the answer to the contract's example, as the model gives it."""
    rows = model.reader.from_records([model.bundle.manifest["example"]])
    predictions = with_ids([ANY_ID], model.score(rows)[0])
    return {"model_version": model.version, "predictions": msgspec.to_builtins(predictions)}


def answer(found: Answered) -> bytes:
    """Return the body of an answer."""
    return encode(
        {"model_version": found.version, "predictions": with_ids(found.ids, found.outputs)}
    )


async def json_body(request: Request) -> bytes:
    """Return a request's body; raise Invalid if it does not claim to be JSON: forms of other sites do not."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Invalid(415, f"send the header Content-Type: {JSON}")
    return b"".join([part async for part in request.stream()])  # which the request does not keep


async def show(service: Service) -> None:
    """Keep the gauges of this process up to date."""
    while True:
        try:
            metrics.state(service.followers, service.writer.status(), service.ready)
        except Exception:  # of whatever kind: the next look may be better
            LOGGER.exception("the gauges are old")
        await asyncio.sleep(PAUSE)
