"""GET /v1/model: which model answers, how good it is, and who promoted it."""

from fastapi import APIRouter
from pydantic import BaseModel

from mlops_loop.base.project import current_project
from mlops_loop.scoring.promotion import PromotionFacts
from mlops_loop.serving.service import Service

PUBLIC = {"task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}


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

    @endpoints.get(
        "/v1/model",
        response_model_exclude_unset=True,
        summary="Which model answers, and how good it is",
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

    return endpoints
