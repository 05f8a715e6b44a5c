"""Infer: the endpoints of the Open Inference Protocol, V2 (see v2.py)."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from .. import NAME
from . import v2
from .log import Entry
from .service import Service, new_prefix


def router(service: Service) -> APIRouter:
    """Return the endpoints; the protocol is their documentation."""
    found = APIRouter(prefix="/v2", include_in_schema=False)

    def named(name: str, version: str | None = None) -> None:
        served = service.model.version
        if name != NAME or version not in (None, served):
            raise HTTPException(404, f"the model that is served is {NAME}, version {served}")

    known: Any = {"dependencies": [Depends(named)]}

    @found.get("")
    async def server() -> dict[str, Any]:
        return v2.metadata()

    @found.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @found.get("/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": bool(service.model)}

    @found.get("/models/{name}/ready", **known)
    @found.get("/models/{name}/versions/{version}/ready", **known)
    async def model_ready() -> dict[str, Any]:
        return {"name": NAME, "ready": True}

    @found.get("/models/{name}", **known)
    @found.get("/models/{name}/versions/{version}", **known)
    async def model() -> dict[str, Any]:
        return v2.model_metadata(service.model.bundle)

    @found.post("/models/{name}/infer", **known)
    @found.post("/models/{name}/versions/{version}/infer", **known)
    async def infer(request: Request) -> Response:
        length = v2.header_length(request.headers.get(v2.HEADER))
        entry, text, headers = score(await request.body(), length, request.state.key)
        await service.store(entry)
        return Response(text, headers=headers)

    def score(body: bytes, length: int | None, key: str | None) -> tuple[Entry, bytes, dict[str, str]]:
        served, variant = service.choose(body)
        schema = served.bundle.schema
        inference = v2.read(body, length, schema)
        rows = served.reader.from_records(inference.records)
        entry, answered = service.score(rows, served, variant, key, new_prefix())
        outputs = msgspec.to_builtins(answered.outputs)
        return entry, *v2.answer(inference, outputs, answered.ids, answered.version, schema)

    return found
