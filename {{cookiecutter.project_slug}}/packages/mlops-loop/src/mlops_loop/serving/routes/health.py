"""GET /health/live, /health/ready and /metrics."""

from typing import Any

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from mlops_loop.serving import metrics
from mlops_loop.serving.openapi import error_response
from mlops_loop.serving.service import RETRY_AFTER, Service


def router(service: Service) -> APIRouter:
    endpoints = APIRouter()

    @endpoints.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @endpoints.get("/health/ready", responses={503: error_response()})
    async def ready() -> dict[str, Any]:
        """Say whether predictions are answered, and what is wrong although they are."""
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", RETRY_AFTER)
        state: dict[str, Any] = {"status": "ready", "model_version": service.model.version}
        if challenger := service.challenger.model:
            state["challenger"] = challenger.version
        if refused := {name: one.refused for name, one in service.followers.items() if one.refused}:
            state["refused"] = refused
        return state | {"log": service.writer.status()._asdict()}

    @endpoints.get("/metrics", response_class=Response, include_in_schema=False)
    def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.TYPE)

    return endpoints
