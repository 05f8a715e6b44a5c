"""Output tensors: predictions as /v1/predict has them, and what the metadata says of them."""

import json
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
from fastapi import Response
from pydantic import JsonValue

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.predictions import Field
from mlops_loop.serving.open_inference.inputs import ACCEPTED, DTYPES, HEADER, Inference, Output
from mlops_loop.serving.request_schema import Invalid
from mlops_loop.serving.service import Answer

IDS = "prediction_id"


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """An output in the JSON of a response; without `data` its values follow as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | int] = {}
    data: Sequence[Field] | None = None


def output_tensors(schema: Schema, rows: int) -> dict[str, OutputTensor]:
    """Return the outputs in their order, without values."""
    classes = schema.classes
    tensors = [OutputTensor("value", "FP64", [rows]), OutputTensor("interval", "FP64", [rows, 2])]
    if classes:
        # A parameter is a text, number or boolean: no list.
        names: dict[str, str | int] = {"classes": json.dumps(classes, ensure_ascii=False)}
        shape = [rows, len(classes)]
        tensors = [
            OutputTensor("label", "BYTES", [rows]),
            OutputTensor("probabilities", "FP64", shape, names),
        ]
    return {tensor.name: tensor for tensor in [*tensors, OutputTensor(IDS, "BYTES", [rows])]}


def model_metadata(bundle: Bundle) -> dict[str, JsonValue]:
    """Return the answer to GET /v2/models/NAME; a shape's -1 is the number of rows."""
    onnx = "model.onnx" in bundle.manifest.files
    return {
        "name": current_project().name,
        "versions": [bundle.version],
        "platform": "onnxruntime_onnx" if onnx else "sklearn_skops",
        "inputs": [
            {"name": name, "datatype": ACCEPTED[column.type][0], "shape": [-1]}
            for name, column in bundle.schema.inputs.items()
        ],
        "outputs": [
            {"name": name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
            for name, tensor in output_tensors(bundle.schema, -1).items()
        ],
    }


def wanted_outputs(request: Inference, schema: Schema) -> dict[str, bool]:
    """Return the names of the wanted outputs, by default all, and whether as bytes."""
    known = list(output_tensors(schema, -1))
    default = (request.parameters or {}).get("binary_data_output", False)
    outputs = request.outputs or [Output(name) for name in known]
    wanted: dict[str, bool] = {}
    for output in outputs:
        flag = (output.parameters or {}).get("binary_data", default)
        if not isinstance(flag, bool):
            raise Invalid(422, "binary_data and binary_data_output must be true or false")
        wanted[output.name] = flag
    if not wanted.keys() <= set(known) or len(wanted) < len(outputs):
        raise Invalid(422, f"outputs must be of {', '.join(known)}, each once")
    return wanted


def response(
    inference: Inference, wanted: dict[str, bool], answer: Answer, schema: Schema
) -> Response:
    """Return the response: a prediction, as /v1/predict has it, and an id for each row."""
    predictions = msgspec.to_builtins(answer.outputs)
    known = output_tensors(schema, len(answer.ids))
    binary: list[bytes] = []
    for name, as_bytes in wanted.items():
        tensor = known[name]
        fields = answer.ids if name == IDS else [prediction[name] for prediction in predictions]
        values = flat(fields, schema.classes)
        if as_bytes:
            binary.append(to_bytes(values, tensor.datatype))
            tensor.parameters["binary_data_size"] = len(binary[-1])
        else:
            tensor.data = values
    about = {"model_name": current_project().name, "model_version": answer.model_version}
    if inference.id is not None:
        about["id"] = inference.id
    body = msgspec.json.encode({**about, "outputs": [known[name] for name in wanted]})
    if not binary:
        return Response(body, media_type="application/json")
    headers = {HEADER: str(len(body))}
    return Response(b"".join((body, *binary)), 200, headers, "application/octet-stream")


def flat(fields: Sequence[Field], classes: list[str]) -> Sequence[Field]:
    """Return the values of fields; of intervals and probabilities one after the other."""
    if isinstance(fields[0], dict):  # in the order of the classes
        return [field[name] for field in fields if isinstance(field, dict) for name in classes]
    if isinstance(fields[0], list):
        return list(chain.from_iterable(field for field in fields if isinstance(field, list)))
    return fields


def to_bytes(values: Sequence[Field], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, DTYPES[datatype]).tobytes()
    encoded = [str(value).encode() for value in values]
    return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)
