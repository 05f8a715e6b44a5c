"""GET /health/live, /health/ready and /metrics."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from mlops_loop.contract.values import Value
from mlops_loop.serving import metrics
from mlops_loop.serving.openapi import error_response
from mlops_loop.serving.service import RETRY_AFTER, Service


class Readiness(BaseModel, frozen=True):
    """What is served, and what is wrong although predictions are answered."""

    status: Literal["ready"]
    model_version: str
    challenger: str | None = None
    refused: dict[str, str] | None = None  # why newer bundles cannot be served, by variant
    log: dict[str, Value]


def router(service: Service) -> APIRouter:
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
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", RETRY_AFTER)
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
