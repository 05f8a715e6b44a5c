"""Infer: the endpoints of the Open Inference Protocol, V2 (see v2.py)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from .. import NAME
from . import v2
from .log import Entry
from .rows import Invalid, Rows
from .served import Served
from .service import AGAIN, Answered, Service

# What a page of another site can send without asking.
FORMS = "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"


def router(service: Service) -> APIRouter:
    """Return the endpoints; the protocol is their documentation."""
    found = APIRouter(prefix="/v2", include_in_schema=False)

    def named(name: str, version: str | None = None) -> None:
        served = service.model.version
        if name != NAME or version not in (None, served):
            raise HTTPException(404, f"the model that is served is {NAME}, version {served}")

    def available() -> bool:
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", AGAIN)
        return True

    known: Any = {"dependencies": [Depends(named)]}

    @found.get("")
    async def server() -> dict[str, Any]:
        return v2.metadata()

    @found.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @found.get("/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": available()}

    @found.get("/models/{name}/ready", **known)
    @found.get("/models/{name}/versions/{version}/ready", **known)
    async def model_ready() -> dict[str, Any]:
        return {"name": NAME, "ready": available()}

    @found.get("/models/{name}", **known)
    @found.get("/models/{name}/versions/{version}", **known)
    async def model() -> dict[str, Any]:
        return v2.model_metadata(service.model.bundle)

    @found.post("/models/{name}/infer", **known)
    @found.post("/models/{name}/versions/{version}/infer", **known)
    async def infer(request: Request, version: str | None = None) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS:
            raise Invalid(415, "send JSON, or JSON and binary tensors")
        length, again = (
            v2.header_length(request.headers.get(v2.HEADER)),
            request.headers.get("idempotency-key"),
        )
        body, key = await request.body(), request.state.key
        entry, inference, answered, task = score(body, length, key, again, version)
        answered = await service.finish(entry, again) or answered
        schema, outputs = service.model.bundle.schema, msgspec.to_builtins(answered.outputs)
        text, headers = v2.answer(inference, outputs, answered.ids, answered.version, schema)
        return Response(text, headers=headers, background=task)

    def score(
        body: bytes, length: int | None, key: str | None, again: str | None, version: str | None
    ) -> tuple[Entry, v2.Inference, Answered, BackgroundTask | None]:
        asked: list[v2.Inference] = []

        def read(model: Served) -> Rows:
            asked.append(v2.read(body, length, model.bundle.schema))
            return model.reader.from_records(asked[-1].records)

        entry, answered, task = service.begin(body, read, key, again, version)
        return entry, asked[0], answered, task

    return found
