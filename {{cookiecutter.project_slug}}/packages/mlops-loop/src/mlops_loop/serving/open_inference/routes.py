"""The endpoints of the Open Inference Protocol, V2; the protocol is their documentation."""

from importlib.metadata import version

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.serving.loaded_model import LoadedModel
from mlops_loop.serving.open_inference.inference_request import read_inference
from mlops_loop.serving.open_inference.messages import HEADER, Inference, header_length
from mlops_loop.serving.open_inference.outputs import model_metadata, response
from mlops_loop.serving.request_schema import Invalid, Rows
from mlops_loop.serving.service import Scored, Service

# What a page of another site can send without asking.
FORM_TYPES = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")


def router(service: Service) -> APIRouter:
    endpoints = APIRouter(include_in_schema=False)
    endpoints.include_router(server_router(service))
    endpoints.include_router(model_router(service))
    return endpoints


def server_router(service: Service) -> APIRouter:
    endpoints = APIRouter(prefix="/v2")

    @endpoints.get("")
    async def server() -> dict[str, JsonValue]:
        name = current_project().name
        return {"name": name, "version": version(name), "extensions": ["binary_tensor_data"]}

    @endpoints.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @endpoints.get("/health/ready")
    async def ready() -> dict[str, bool]:
        service.check_ready()
        return {"ready": True}

    return endpoints


def model_router(service: Service) -> APIRouter:
    def check_model(name: str, version: str | None = None) -> None:
        served = service.model.version
        if name != current_project().name or version not in (None, served):
            reason = f"the served model is {current_project().name}, version {served}"
            raise HTTPException(404, reason)

    endpoints = APIRouter(prefix="/v2", dependencies=[Depends(check_model)])

    @endpoints.get("/models/{name}/ready")
    @endpoints.get("/models/{name}/versions/{version}/ready")
    async def model_ready() -> dict[str, str | bool]:
        service.check_ready()
        return {"name": current_project().name, "ready": True}

    @endpoints.get("/models/{name}")
    @endpoints.get("/models/{name}/versions/{version}")
    async def model() -> dict[str, JsonValue]:
        return model_metadata(service.model.bundle)

    @endpoints.post("/models/{name}/infer")
    @endpoints.post("/models/{name}/versions/{version}/infer")
    async def infer(request: Request, version: str | None = None) -> Response:
        return await answer(service, request, version)

    return endpoints


async def answer(service: Service, request: Request, version: str | None) -> Response:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in FORM_TYPES:
        raise Invalid(415, "send JSON, or JSON and binary tensors")
    length = header_length(request.headers.get(HEADER))
    idempotency_key = request.headers.get("idempotency-key")
    key = request.state.key
    body = await request.body()
    scored, inference = score(service, body, length, key, idempotency_key, version)
    found = await service.make_durable(scored.entry, idempotency_key) or scored.answer
    predictions = msgspec.to_builtins(found.outputs)
    schema = service.model.bundle.schema
    sent = response(inference, predictions, found.ids, found.model_version, schema)
    return Response(sent.body, headers=sent.headers, background=scored.shadow)


def score(
    service: Service,
    body: bytes,
    length: int | None,
    key: str | None,
    idempotency_key: str | None,
    version: str | None,
) -> tuple[Scored, Inference]:
    inferences: list[Inference] = []  # the challenger in the shadow reads it again

    def read(model: LoadedModel) -> Rows:
        inferences.append(read_inference(body, length, model.bundle.schema))
        return model.reader.from_records(inferences[-1].records)

    scored = service.score_request(body, read, key, idempotency_key, version)
    return scored, inferences[0]
