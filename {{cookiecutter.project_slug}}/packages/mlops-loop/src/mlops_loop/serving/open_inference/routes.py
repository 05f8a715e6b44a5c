"""Infer: the endpoints of the Open Inference Protocol, V2 (see v2.py)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.serving.loaded_model import Served
from mlops_loop.serving.open_inference import protocol
from mlops_loop.serving.request_schema import Invalid, Rows
from mlops_loop.serving.service import AGAIN, Answered, Service

# What a page of another site can send without asking.
FORMS = "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"


def router(service: Service) -> APIRouter:
    """Return the endpoints; the protocol is their documentation."""
    found = APIRouter(prefix="/v2", include_in_schema=False)

    def named(name: str, version: str | None = None) -> None:
        served = service.model.version
        if name != current_project().name or version not in (None, served):
            raise HTTPException(
                404, f"the model that is served is {current_project().name}, version {served}"
            )

    def available() -> bool:
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", AGAIN)
        return True

    known: Any = {"dependencies": [Depends(named)]}

    @found.get("")
    async def server() -> dict[str, Any]:
        return protocol.metadata()

    @found.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @found.get("/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": available()}

    @found.get("/models/{name}/ready", **known)
    @found.get("/models/{name}/versions/{version}/ready", **known)
    async def model_ready() -> dict[str, Any]:
        return {"name": current_project().name, "ready": available()}

    @found.get("/models/{name}", **known)
    @found.get("/models/{name}/versions/{version}", **known)
    async def model() -> dict[str, Any]:
        return protocol.model_metadata(service.model.bundle)

    @found.post("/models/{name}/infer", **known)
    @found.post("/models/{name}/versions/{version}/infer", **known)
    async def infer(request: Request, version: str | None = None) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS:
            raise Invalid(415, "send JSON, or JSON and binary tensors")
        length, again = (
            protocol.header_length(request.headers.get(protocol.HEADER)),
            request.headers.get("idempotency-key"),
        )
        body, key = await request.body(), request.state.key
        entry, inference, answered, task = score(body, length, key, again, version)
        answered = await service.finish(entry, again) or answered
        schema, outputs = service.model.bundle.schema, msgspec.to_builtins(answered.outputs)
        text, headers = protocol.answer(inference, outputs, answered.ids, answered.version, schema)
        return Response(text, headers=headers, background=task)

    def score(
        body: bytes, length: int | None, key: str | None, again: str | None, version: str | None
    ) -> tuple[Entry, protocol.Inference, Answered, BackgroundTask | None]:
        asked: list[protocol.Inference] = []

        def read(model: Served) -> Rows:
            asked.append(protocol.read(body, length, model.bundle.schema))
            return model.reader.from_records(asked[-1].records)

        entry, answered, task = service.begin(body, read, key, again, version)
        return entry, asked[0], answered, task

    return found
