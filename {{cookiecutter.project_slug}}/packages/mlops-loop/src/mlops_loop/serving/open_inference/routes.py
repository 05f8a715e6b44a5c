"""The endpoints of the Open Inference Protocol, V2; the protocol is their documentation."""

from importlib.metadata import version as installed

from fastapi import APIRouter, Depends, Request, Response
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from mlops_loop.base.project import current_project
from mlops_loop.serving.api import ENCODER, JSON, service_of
from mlops_loop.serving.hot_reload import LoadedModel
from mlops_loop.serving.open_inference.tensors import (
    ACCEPTED,
    HEADER,
    output_tensors,
    read_inference,
    to_records,
    to_tensors,
    wanted_outputs,
)
from mlops_loop.serving.request_schema import Invalid, Rows

# What a page of another site can send without asking.
FORM_TYPES = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")
MODEL = "/models/{name}"
VERSION = MODEL + "/versions/{version}"
ROUTER = APIRouter(include_in_schema=False, prefix="/v2")


@ROUTER.get("")
async def server() -> dict[str, JsonValue]:
    name = current_project().name
    return {"name": name, "version": installed(name), "extensions": ["binary_tensor_data"]}


@ROUTER.get("/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@ROUTER.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    service_of(request).check_ready()
    return {"ready": True}


async def check_model(request: Request, name: str, version: str | None = None) -> None:
    served = service_of(request).model.version
    if name != current_project().name or version not in (None, served):
        reason = f"the served model is {current_project().name}, version {served}"
        raise HTTPException(404, reason)


CHECKED = [Depends(check_model)]


@ROUTER.get(MODEL + "/ready", dependencies=CHECKED)
@ROUTER.get(VERSION + "/ready", dependencies=CHECKED)
async def model_ready(request: Request) -> dict[str, str | bool]:
    service_of(request).check_ready()
    return {"name": current_project().name, "ready": True}


@ROUTER.get(MODEL, dependencies=CHECKED)
@ROUTER.get(VERSION, dependencies=CHECKED)
async def model(request: Request) -> dict[str, JsonValue]:
    """Return what a client needs to know; a shape's -1 is the number of rows."""
    bundle = service_of(request).model.bundle
    inputs = {name: ACCEPTED[column.type][0] for name, column in bundle.schema.inputs.items()}
    onnx = "model.onnx" in bundle.manifest.files
    return {
        "name": current_project().name,
        "versions": [bundle.version],
        "platform": "onnxruntime_onnx" if onnx else "sklearn_skops",
        "inputs": [
            {"name": name, "datatype": kind, "shape": [-1]} for name, kind in inputs.items()
        ],
        "outputs": [
            {"name": name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
            for name, tensor in output_tensors(bundle.schema, -1).items()
        ],
    }


@ROUTER.post(MODEL + "/infer", dependencies=CHECKED)
@ROUTER.post(VERSION + "/infer", dependencies=CHECKED)
async def infer(request: Request) -> Response:
    if request.headers.get("content-type", "").lower().startswith(FORM_TYPES):
        raise Invalid(415, "send JSON, or JSON and binary tensors")
    service = service_of(request)
    schema = service.model.bundle.schema
    inference, rest = read_inference(request.state.body, request.headers.get(HEADER))
    wanted = wanted_outputs(inference, schema)

    def read(model: LoadedModel) -> Rows:
        return model.reader.from_records(to_records(inference, rest, model.reader))

    named = "version" in request.path_params  # who names a version gets no other
    answer, shadow = await service.predict(request, read, champion=named)
    outputs, binary = to_tensors(answer, wanted, schema)
    about = {"model_name": current_project().name, "model_version": answer.model_version}
    if inference.id is not None:
        about["id"] = inference.id
    header = ENCODER.encode({**about, "outputs": outputs})
    if not binary:
        return Response(header, media_type=JSON, background=shadow)
    headers = {HEADER: str(len(header))}
    return Response(header + binary, 200, headers, "application/octet-stream", shadow)
