"""The endpoints: predictions, outcomes, the model, health, metrics, pages and documentation."""

import asyncio

import msgspec
import prometheus_client
from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, JsonValue
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.scoring.predictions import with_ids
from mlops_loop.serving import metrics
from mlops_loop.serving.openapi import BODY_ERRORS, error_responses, json_operation
from mlops_loop.serving.pages import model_page
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.service import RETRY_AFTER, Service

PREDICT = "/v1/predict"
JSON = "application/json"
ENCODER = msgspec.json.Encoder()
# Of a bundle's manifest.
DESCRIPTION = {"task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}
DESCRIPTION |= {"segments"}
ROUTER = APIRouter()  # for those who are let in
HEALTH = APIRouter(prefix="/health", tags=["health"])
PAGES = APIRouter(include_in_schema=False)


class Recorded(BaseModel, frozen=True):
    """How many outcomes were new, there already, or replaced; positions of unknown ids, from 0."""

    recorded: int
    repeated: int
    corrected: int
    unknown: list[int]


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@ROUTER.post(
    PREDICT,
    operation_id="predict",
    openapi_extra=json_operation("Rows", "Answer"),
    responses=error_responses(BODY_ERRORS),
    summary="Predict rows and log each prediction",
    tags=["predictions"],
)
async def predict(request: Request) -> Response:
    """Score the rows; every prediction is in the log before it is answered."""
    body = read_json(request)
    answer, shadow = await service_of(request).predict(
        request, lambda model: model.reader.read(body)
    )
    predictions = with_ids(answer.ids, answer.outputs)
    text = ENCODER.encode({"model_version": answer.model_version, "predictions": predictions})
    return Response(text, media_type=JSON, background=shadow)


def read_json(request: Request) -> bytes:
    """Return the body, if it claims to be JSON: a form on another site cannot."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Invalid(415, f"send the header Content-Type: {JSON}")
    body: bytes = request.state.body
    return body


@ROUTER.post(
    "/v1/outcomes",
    openapi_extra=json_operation("Outcomes", "Recorded"),
    responses=error_responses(BODY_ERRORS),
    summary="Record what really happened",
    tags=["predictions"],
)
async def outcomes(request: Request) -> Recorded:
    """Record what really happened. A later value of a prediction replaces the earlier one."""
    service = service_of(request)
    pairs = service.model.reader.read_outcomes(read_json(request))
    try:
        recorded = await asyncio.to_thread(record_ground_truth, service.writer.engine, pairs)
    except SQLAlchemyError:
        reason = "the prediction log is unreachable; try again"
        raise HTTPException(503, reason, RETRY_AFTER) from None
    return Recorded(**recorded._asdict())


@ROUTER.get("/v1/model", summary="Which model answers, and how good it is", tags=["model"])
async def model(request: Request) -> dict[str, JsonValue]:
    """Return the served version, its metrics on its test window, and its promotion."""
    bundle = service_of(request).model.bundle
    about = bundle.manifest.model_dump(mode="json", include=DESCRIPTION, exclude_unset=True)
    promotion = bundle.promotion.model_dump(mode="json", exclude_unset=True)
    named = {"name": current_project().name, "version": bundle.version}
    return named | about | {"promotion": promotion}


@HEALTH.get("/live", summary="Whether the process runs")
async def live() -> dict[str, str]:
    return {"status": "live"}


@HEALTH.get(
    "/ready",
    summary="Whether predictions are answered",
    responses=error_responses({503: "Predictions are not answered"}),
)
async def ready(request: Request) -> dict[str, JsonValue]:
    """Say whether predictions are answered, and what is wrong although they are."""
    service = service_of(request)
    service.check_ready()
    log = service.writer.status()._asdict()
    found: dict[str, JsonValue] = {
        "status": "ready",
        "model_version": service.model.version,
        "log": log,
    }
    if challenger := service.challenger.model:
        found["challenger"] = challenger.version
    if refused := {name: one.refused for name, one in service.followers.items() if one.refused}:
        found["refused"] = {**refused}
    return found


@PAGES.get("/metrics")
def exposition(request: Request) -> Response:
    text = metrics.exposition(request.app.state.newest_window)
    return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)


@PAGES.get("/")
async def first_page(request: Request) -> HTMLResponse:
    page = model_page.html(service_of(request).model.bundle, request.app.state.keys.required)
    return HTMLResponse(page, headers={"Content-Security-Policy": model_page.POLICY})


@PAGES.get("/page.js")
async def script() -> Response:
    return Response(model_page.SCRIPT, media_type="text/javascript")


@PAGES.get("/docs")
async def docs() -> HTMLResponse:
    """Show the documentation. Its addresses are relative: a proxy may add a prefix."""
    return get_swagger_ui_html(
        title=f"{current_project().name} - Swagger UI",
        openapi_url="openapi.json",
        swagger_js_url="static-offline-docs/swagger-ui-bundle.js",
        swagger_css_url="static-offline-docs/swagger-ui.css",
        swagger_favicon_url="static-offline-docs/favicon.png",
    )
