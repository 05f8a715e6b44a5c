"""A bundle in MLServer, Seldon's server: `model-settings.json` in the bundle names this runtime.

Rows are checked, scored and logged as our own server does it. MLServer's environment is one of its
own (deploy/seldon), so this module imports neither FastAPI nor what else only `serve` needs."""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, ResponseOutput
from mlserver.utils import get_model_uri
from starlette.exceptions import HTTPException

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.values import Value
from mlops_loop.prediction_log.ids import new_prefix
from mlops_loop.serving.open_inference import tensors
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.service import CHAMPION, Service


def use_installed_project() -> None:
    """Make the project that is installed here the current one, as its console script would."""
    scripts = entry_points(group="console_scripts")
    found = {
        script.module
        for script in scripts
        if script.dist and any(need.startswith("mlops-loop") for need in script.dist.requires or ())
    }
    if len(found) != 1:
        raise Failure(f"MLServer needs one project that uses mlops-loop, there are {len(found)}")
    project.use(import_module(found.pop()).PROJECT)


def to_inference(payload: InferenceRequest) -> tensors.Inference:
    """Return MLServer's request as the server's own endpoints read it. Raises Invalid."""
    inputs = []
    for given in payload.inputs:
        values = getattr(given.data, "root", given.data)
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise Invalid(422, f"{given.name}: data must be a list", column=given.name)
        try:
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        except UnicodeDecodeError:
            raise Invalid(400, f"{given.name}: a text is not in UTF-8", column=given.name) from None
        kind = getattr(given.datatype, "value", given.datatype)
        inputs.append(tensors.Tensor(given.name, [*given.shape], kind, values))
    wanted = [tensors.Tensor(output.name) for output in payload.outputs or ()]
    return tensors.Inference(inputs, wanted or None)


def to_output(tensor: tensors.Tensor) -> ResponseOutput:
    values: list[Value | bytes] = tensor.data or []
    if tensor.datatype == "BYTES":  # which gRPC takes as bytes only
        values = [str(value).encode() for value in values]
    classes = tensor.parameters and tensor.parameters.classes
    return ResponseOutput(
        name=tensor.name,
        shape=tensor.shape,
        datatype=tensor.datatype,
        data=values,
        parameters={"classes": classes} if classes else None,
    )


class Runtime(MLModel):  # type: ignore[misc] # MLServer is not installed where this is checked
    service: Service | None = None

    async def load(self) -> bool:
        """Open the bundle and its prediction log. MLServer's answer says why it cannot be."""
        folder = await get_model_uri(self.settings)
        try:
            self.service = service = await asyncio.to_thread(self.open, Path(folder))
        except Failure as error:
            raise MLServerError(str(error), 422) from None
        bundle = service.model.bundle
        inputs = {n: tensors.ACCEPTED[c.type][0] for n, c in bundle.schema.inputs.items()}
        self.inputs = [MetadataTensor(name=n, datatype=t, shape=[-1]) for n, t in inputs.items()]
        self.outputs = [
            MetadataTensor(name=output.name, datatype=output.datatype, shape=output.shape)
            for output in tensors.output_tensors(bundle.schema, -1).values()
        ]
        return True

    def open(self, folder: Path) -> Service:
        if project.VARIABLE not in os.environ:
            use_installed_project()
        one = {"bundle": str(folder), "traffic": ""}  # Seldon's Experiment divides the traffic
        service = Service(load_settings().model_copy(update=one))
        service.writer.start()
        return service

    async def unload(self) -> bool:
        if self.service:  # None if it could not be loaded
            await asyncio.to_thread(self.service.writer.close)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        service = self.service
        assert service  # noqa: S101 - MLServer asks no model that is not loaded
        model = service.model
        schema = model.bundle.schema
        try:
            inference = to_inference(payload)
            wanted = dict.fromkeys(tensors.wanted_outputs(inference, schema), False)
            rows = model.reader.from_records(tensors.to_records(inference, b"", model.reader))
            now = datetime.now(UTC)
            entry, answer = service.score(rows, model, CHAMPION, None, new_prefix(now), now)
            await service.store(entry)
        except HTTPException as error:
            text = str(error) if isinstance(error, Invalid) else error.detail
            raise MLServerError(text, error.status_code) from None
        outputs, _ = tensors.to_tensors(answer, wanted, schema)
        return InferenceResponse(
            model_name=self.name,
            model_version=answer.model_version,
            outputs=[to_output(tensor) for tensor in outputs],
        )
