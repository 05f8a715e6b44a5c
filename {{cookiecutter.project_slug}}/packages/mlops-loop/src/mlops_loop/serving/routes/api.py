"""The other endpoints: outcomes, the model, health, metrics and the API's documentation."""

import asyncio
from importlib.resources import files
from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.contract.values import Value
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.scoring.promotion import PromotionFacts
from mlops_loop.serving import metrics
from mlops_loop.serving.openapi import error_response, json_operation
from mlops_loop.serving.routes.predict import read_json
from mlops_loop.serving.service import RETRY_AFTER, Service

PUBLIC = {"task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}


class Recorded(BaseModel, frozen=True):
    """How many outcomes were new, there already, or replaced; positions of unknown ids, from 0."""

    recorded: int
    repeated: int
    corrected: int
    unknown: list[int]


class Readiness(BaseModel, frozen=True):
    """What is served, and what is wrong although predictions are answered."""

    status: Literal["ready"]
    model_version: str
    challenger: str | None = None
    refused: dict[str, str] | None = None  # why newer bundles cannot be served, by variant
    log: dict[str, Value]


class ModelDescription(BaseModel, frozen=True):
    """The served version; it has what PUBLIC names of its bundle's manifest."""

    name: str
    version: str
    promotion: PromotionFacts
    task: str = ""
    target: str = ""
    classes: list[str] | None = None
    threshold: float | None = None
    half_width: float | None = None
    metrics: dict[str, int | float | None] = {}
    baseline: dict[str, int | float | None] = {}


def router(service: Service) -> APIRouter:
    endpoints = APIRouter()
    documented = json_operation("Outcomes", "Recorded")

    @endpoints.post(
        "/v1/outcomes",
        openapi_extra={**documented},
        summary="Record what really happened",
        tags=["predictions"],
    )
    async def outcomes(request: Request) -> Recorded:
        """Record what really happened. A later value of a prediction replaces the earlier one."""
        pairs = service.model.outcomes.read(await read_json(request))
        try:
            recorded = await asyncio.to_thread(record_ground_truth, service.writer.engine, pairs)
        except SQLAlchemyError:
            reason = "the prediction log is unreachable; try again"
            raise HTTPException(503, reason, RETRY_AFTER) from None
        return Recorded(**recorded._asdict())

    @endpoints.get(
        "/v1/model",
        response_model_exclude_unset=True,
        summary="Which model answers, and how good it is",
        tags=["model"],
    )
    async def model() -> ModelDescription:
        """Return the served version, its metrics on its test window, and its promotion."""
        bundle = service.model.bundle
        return ModelDescription(
            name=current_project().name,
            version=bundle.version,
            promotion=bundle.promotion,
            **bundle.manifest.model_dump(include=PUBLIC, exclude_unset=True),
        )

    endpoints.include_router(health_router(service), tags=["health"])
    return endpoints


def health_router(service: Service) -> APIRouter:
    endpoints = APIRouter()

    @endpoints.get("/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @endpoints.get(
        "/health/ready",
        summary="Whether predictions are answered",
        responses={503: {**error_response()}},
        response_model_exclude_none=True,
    )
    async def ready() -> Readiness:
        """Say whether predictions are answered, and what is wrong although they are."""
        service.check_ready()
        challenger = service.challenger.model
        refused = {name: one.refused for name, one in service.followers.items() if one.refused}
        return Readiness(
            status="ready",
            model_version=service.model.version,
            challenger=challenger.version if challenger else None,
            refused=refused or None,
            log=service.writer.status()._asdict(),
        )

    @endpoints.get("/metrics", response_class=Response, include_in_schema=False)
    def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.TYPE)

    return endpoints


def add_documentation(app: FastAPI) -> None:
    """Serve /docs with its own files, by relative addresses: a proxy may add a prefix."""
    static = str(files("fastapi_offline").joinpath("static"))
    app.mount("/static-offline-docs", StaticFiles(directory=static))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            title=f"{app.title} - Swagger UI",
            openapi_url="openapi.json",
            swagger_js_url="static-offline-docs/swagger-ui-bundle.js",
            swagger_css_url="static-offline-docs/swagger-ui.css",
            swagger_favicon_url="static-offline-docs/favicon.png",
        )
