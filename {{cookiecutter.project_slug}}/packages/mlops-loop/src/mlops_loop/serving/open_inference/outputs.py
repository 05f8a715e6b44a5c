"""Output tensors: predictions as /v1/predict has them, and what the metadata says of them."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import msgspec
from pydantic import JsonValue

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.predictions import Field, Prediction
from mlops_loop.serving.open_inference.messages import HEADER, Inference
from mlops_loop.serving.open_inference.tensors import ACCEPTED, to_bytes

JSON = "application/json"


class Tensor(NamedTuple):
    """The datatype of an output and, if a row has several values, how many."""

    datatype: str
    width: tuple[int, ...] = ()


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """An output in the JSON of a response; without `data` its values follow as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | int] = {}
    data: Sequence[Field] | None = None


class Response(NamedTuple):
    body: bytes
    headers: dict[str, str]


def output_tensors(schema: Schema) -> dict[str, Tensor]:
    """Return the outputs in their order."""
    tensors = {"value": Tensor("FP64"), "interval": Tensor("FP64", (2,))}
    if schema.classes:
        probabilities = Tensor("FP64", (len(schema.classes),))
        tensors = {"label": Tensor("BYTES"), "probabilities": probabilities}
    return tensors | {"prediction_id": Tensor("BYTES")}


def model_metadata(bundle: Bundle) -> dict[str, JsonValue]:
    """Return the answer to GET /v2/models/NAME; a shape's -1 is the number of rows."""
    inputs: list[JsonValue] = [
        {"name": name, "datatype": ACCEPTED[column.type][0], "shape": [-1]}
        for name, column in bundle.schema.inputs.items()
    ]
    outputs: list[JsonValue] = [
        {"name": name, "datatype": tensor.datatype, "shape": [-1, *tensor.width]}
        for name, tensor in output_tensors(bundle.schema).items()
    ]
    onnx = "model.onnx" in bundle.manifest.files
    return {
        "name": current_project().name,
        "versions": [bundle.version],
        "platform": "onnxruntime_onnx" if onnx else "sklearn_skops",
        "inputs": inputs,
        "outputs": outputs,
    }


def response(
    inference: Inference,
    predictions: Sequence[Prediction],
    ids: Sequence[str],
    model_version: str,
    schema: Schema,
) -> Response:
    """Return the response: a prediction, as /v1/predict has it, and an id for each row."""
    tensors = []
    binary = []
    known = output_tensors(schema)
    for name in inference.outputs:
        tensor, data = output(name, known[name], predictions, ids, schema)
        if name in inference.binary:
            binary.append(to_bytes(data, known[name].datatype))
            tensor.parameters["binary_data_size"] = len(binary[-1])
        else:
            tensor.data = data
        tensors.append(tensor)
    about = {"model_name": current_project().name, "model_version": model_version}
    if inference.id is not None:
        about["id"] = inference.id
    body = msgspec.json.encode({**about, "outputs": tensors})
    if not binary:
        return Response(body, {"Content-Type": JSON})
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(body))}
    return Response(b"".join((body, *binary)), headers)


def output(
    name: str,
    tensor: Tensor,
    predictions: Sequence[Prediction],
    ids: Sequence[str],
    schema: Schema,
) -> tuple[OutputTensor, Sequence[Field]]:
    """Return what the JSON says of an output, and its values, flat."""
    shape = [len(ids), *tensor.width]
    about = OutputTensor(name, tensor.datatype, shape)
    if name == "prediction_id":
        return about, ids
    if name == "probabilities":
        # A parameter is a text, number or boolean: no list.
        about.parameters["classes"] = json.dumps(schema.classes, ensure_ascii=False)
    fields = [prediction[name] for prediction in predictions]
    if not tensor.width:
        return about, fields
    return about, list(chain.from_iterable(in_order(field, schema) for field in fields))


def in_order(field: Field, schema: Schema) -> Sequence[Field]:
    """Return the values of an interval, or probabilities in the order of the classes."""
    if isinstance(field, dict):
        return [field[label] for label in schema.classes]
    return field if isinstance(field, list) else [field]
