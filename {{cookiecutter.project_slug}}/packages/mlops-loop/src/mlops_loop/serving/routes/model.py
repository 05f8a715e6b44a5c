"""GET /v1/model: which model answers, how good it is, and who promoted it."""

from typing import Any

from fastapi import APIRouter

from mlops_loop.base.project import current_project
from mlops_loop.serving.service import Service

PUBLIC = {"task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}


def router(service: Service) -> APIRouter:
    endpoints = APIRouter()

    @endpoints.get("/v1/model")
    async def model() -> dict[str, Any]:
        """Return the served version, its metrics on its test window, and its promotion."""
        bundle = service.model.bundle
        return {
            "name": current_project().name,
            "version": bundle.version,
            "promotion": bundle.promotion.model_dump(exclude_unset=True),
            **bundle.manifest.model_dump(include=PUBLIC, exclude_unset=True),
        }

    return endpoints
