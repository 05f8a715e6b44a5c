"""The endpoints of the Open Inference Protocol, V2."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.serving.loaded_model import Served
from mlops_loop.serving.open_inference import protocol
from mlops_loop.serving.request_schema import Invalid, Rows
from mlops_loop.serving.service import RETRY_AFTER, Scored, Service

# What a page of another site can send without asking.
FORMS = "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"


def router(service: Service) -> APIRouter:
    """Return the endpoints; the protocol is their documentation."""
    found = APIRouter(prefix="/v2", include_in_schema=False)

    def named(name: str, version: str | None = None) -> None:
        served = service.model.version
        if name != current_project().name or version not in (None, served):
            reason = f"the served model is {current_project().name}, version {served}"
            raise HTTPException(404, reason)

    def available() -> bool:
        if not service.ready:
            raise HTTPException(503, "the prediction log takes no more", RETRY_AFTER)
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
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type in FORMS:
            raise Invalid(415, "send JSON, or JSON and binary tensors")
        length = protocol.header_length(request.headers.get(protocol.HEADER))
        idempotency_key = request.headers.get("idempotency-key")
        key = request.state.key
        scored, inference = score(await request.body(), length, key, idempotency_key, version)
        answer = await service.make_durable(scored.entry, idempotency_key) or scored.answer
        outputs = msgspec.to_builtins(answer.outputs)
        schema = service.model.bundle.schema
        text, headers = protocol.answer(
            inference, outputs, answer.ids, answer.model_version, schema
        )
        return Response(text, headers=headers, background=scored.shadow)

    def score(
        body: bytes,
        length: int | None,
        key: str | None,
        idempotency_key: str | None,
        version: str | None,
    ) -> tuple[Scored, protocol.Inference]:
        inferences: list[protocol.Inference] = []

        def read(model: Served) -> Rows:
            inferences.append(protocol.read(body, length, model.bundle.schema))
            return model.reader.from_records(inferences[-1].records)

        scored = service.score_request(body, read, key, idempotency_key, version)
        return scored, inferences[0]

    return found
