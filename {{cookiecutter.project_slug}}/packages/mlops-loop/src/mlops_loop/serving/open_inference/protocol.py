"""V2: the Open Inference Protocol over REST, with the binary tensor data extension; bytes in, bytes out.

Columns of the contract are input tensors, one value per row; what /v1/predict answers are output tensors.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np

from mlops_loop.base.project import current_project
from mlops_loop.contract.limits import MAX_ROWS
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid, Repeated, no_input, once

HEADER = "Inference-Header-Content-Length"  # bytes of JSON, after which binary tensors follow
CONTENT_TYPES = (None, "np", "pd", "str")  # MLServer's, of which none changes how a tensor is read
# As NumPy calls the datatypes that are numbers. BYTES is text, in UTF-8.
DTYPES = {
    "BOOL": "?",
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}
NUMBERS = tuple(name for name in DTYPES if name != "BOOL")
# The datatypes that a column may come in, by its type; the first one is what the metadata names.
TAKEN = {
    "number": ("FP64", *NUMBERS),
    "integer": ("INT64", *NUMBERS),
    "boolean": ("BOOL",),
    "category": ("BYTES",),
    "timestamp": ("BYTES",),  # in ISO 8601
}


class Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | None = None


class Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class Request(msgspec.Struct):
    inputs: Annotated[list[Input], msgspec.Meta(min_length=1)]
    outputs: list[Output] | None = None
    id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Inference:
    """A request that was read: rows to score, and what the client wants to see of their answers."""

    id: str | None
    outputs: tuple[str, ...]  # names, in the order of the response
    binary: frozenset[str]  # those that are wanted as bytes after the JSON
    records: list[dict[str, Any]]  # None is a missing value


def value_of(datatype: str) -> Any:
    """Return the type of one value of a tensor in JSON, where null is a missing one."""
    kind: Any = {"F": float, "I": int, "U": int}.get(
        datatype[0], bool if datatype == "BOOL" else str
    )
    if kind is int:
        limits = np.iinfo(DTYPES[datatype])
        largest = min(int(limits.max), 2**63 - 1)  # msgspec compares with no larger one
        kind = Annotated[int, msgspec.Meta(ge=int(limits.min), le=largest)]
    return kind | None


REQUEST = msgspec.json.Decoder(Request)
VALUES = {name: value_of(name) for name in (*DTYPES, "BYTES")}
FLAT = {name: msgspec.json.Decoder(list[value]) for name, value in VALUES.items()}  # type: ignore[valid-type]
NESTED = {name: msgspec.json.Decoder(list[tuple[value]]) for name, value in VALUES.items()}  # type: ignore[valid-type]


def metadata() -> dict[str, Any]:
    """Return what GET /v2 says of the server."""
    return {
        "name": current_project().name,
        "version": version(current_project().name),
        "extensions": ["binary_tensor_data"],
    }


def model_metadata(bundle: Bundle) -> dict[str, Any]:
    """Return what GET /v2/models/NAME says: a shape's -1 is the number of rows."""
    inputs, outputs = bundle.schema.inputs.items(), output_tensors(bundle.schema).items()
    onnx = "model.onnx" in bundle.manifest["files"]
    return {
        "name": current_project().name,
        "versions": [bundle.version],
        "platform": "onnxruntime_onnx" if onnx else "sklearn_skops",
        "inputs": [
            {"name": name, "datatype": TAKEN[column.type][0], "shape": [-1]}
            for name, column in inputs
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *width]}
            for name, (datatype, *width) in outputs
        ],
    }


def output_tensors(schema: Schema) -> dict[str, tuple[Any, ...]]:
    """Return the outputs in their order: name -> datatype and, if a row has several values, how many."""
    answer: dict[str, tuple[Any, ...]] = {"value": ("FP64",), "interval": ("FP64", 2)}
    if schema.classes:
        answer = {"label": ("BYTES",), "probabilities": ("FP64", len(schema.classes))}
    return {**answer, "prediction_id": ("BYTES",)}


def header_length(text: str | None) -> int | None:
    """Return the header HEADER, if a request has it, as a number. Raises Invalid."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Invalid(400, f"{HEADER} must be a number of bytes")
    return int(text)


def read(body: bytes, header_length: int | None, schema: Schema) -> Inference:
    """Return the inference that a body asks for; without `header_length` it is all JSON.

    Whether values keep the contract is not checked here. Raises Invalid: 400 for what is not in the
    format, 413 for too many rows, 422 for tensors that are not the model's.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise Invalid(400, f"{HEADER} does not fit the body")
    header, rest = (
        body[:header_length],
        body[len(body) if header_length is None else header_length :],
    )
    known = list(schema.inputs)
    request = decode(header, len(known) + 1)  # one more, so that it is told which
    count = rows_of(request)
    given: dict[str, list[Any]] = {}
    for place, tensor in enumerate(request.inputs):
        if tensor.name not in known:
            if tensor.name in schema.columns:
                raise Invalid(422, no_input(tensor.name, schema), column=tensor.name)
            wrong = f"inputs[{place}] is not an input of the model: {', '.join(known)}"
            raise Invalid(422, wrong, column=NOT_A_COLUMN)
        if tensor.name in given:
            raise Invalid(422, f"{tensor.name} is there twice", column=tensor.name)
        try:
            given[tensor.name], rest = read_tensor(tensor, count, schema.inputs[tensor.name], rest)
        except Invalid as error:
            error.column = tensor.name
            raise
    if rest:
        raise Invalid(400, f"{len(rest)} bytes after the last binary tensor belong to none")
    needed = [name for name, column in schema.inputs.items() if not column.nullable]
    if missing := [name for name in needed if name not in given]:
        raise Invalid(422, f"inputs are missing: {', '.join(missing)}", column=missing[0])
    records = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
    return Inference(request.id, *wanted(request, list(output_tensors(schema))), records)


def decode(header: bytes, most: int) -> Request:
    """Return the JSON of a request; the tensors' data are left as they are."""
    try:
        request = REQUEST.decode(header)
        if len(request.inputs) > most:
            raise Invalid(422, f"the model has {most} inputs")
        for (
            tensor
        ) in request.inputs:  # json finds names that are there twice, but is slow with the data
            if len(tensor.data) > 64:
                header = header.replace(bytes(tensor.data), b"0", 1)
        json.loads(header, object_pairs_hook=once)
    except msgspec.ValidationError as error:
        raise Invalid(422, f"the request is not one of this protocol: {error}") from None
    except (
        ValueError,
        RecursionError,
        Repeated,
    ):  # MsgspecError and UnicodeDecodeError are ValueErrors
        raise Invalid(400, "the body is not valid JSON, with each name once") from None
    check_content_type(request.parameters, "the request")
    return request


def check_content_type(parameters: dict[str, Any] | None, where: str) -> None:
    kind = (parameters or {}).get("content_type")
    if kind not in CONTENT_TYPES:
        raise Invalid(422, f"{where}: the content_type must be np, pd or str, if there is one")


def rows_of(request: Request) -> int:
    """Return how many rows the tensors have: all the same number."""
    shapes = [tensor.shape for tensor in request.inputs]
    if any(len(shape) not in (1, 2) or shape[1:] not in ([], [1]) for shape in shapes):
        raise Invalid(422, "the shape of an input must be [rows] or [rows, 1]")
    count = shapes[0][0]
    if any(shape[0] != count for shape in shapes):
        raise Invalid(422, "the inputs differ in their number of rows")
    if count < 1:
        raise Invalid(422, "a request has at least one row")
    if count > MAX_ROWS:
        raise Invalid(413, f"a request has at most {MAX_ROWS} rows")
    return count


def read_tensor(tensor: Input, count: int, column: Column, rest: bytes) -> tuple[list[Any], bytes]:
    """Return a tensor's values as the contract's types, and what is left of the binary data."""
    datatype, parameters = tensor.datatype, tensor.parameters or {}
    check_content_type(parameters, tensor.name)
    if datatype not in TAKEN[column.type]:
        raise Invalid(
            422, f"{tensor.name}: the datatype must be one of {', '.join(TAKEN[column.type])}"
        )
    if (size := parameters.get("binary_data_size")) is None:
        values = from_json(tensor)
    elif len(tensor.data):
        raise Invalid(422, f"{tensor.name} has both data and binary data")
    elif type(size) is not int or not 0 <= size <= len(rest):
        raise Invalid(400, f"{tensor.name}: the binary_data_size does not fit the body")
    else:
        values, rest = from_bytes(tensor.name, datatype, rest[:size]), rest[size:]
    if len(values) != count:
        raise Invalid(422, f"{tensor.name}: the number of values is not that of the shape")
    return typed(values, datatype, column), rest


def from_json(tensor: Input) -> list[Any]:
    """Return the values of a tensor in JSON, a flat list or one of lists with one value each."""
    data, datatype = bytes(tensor.data), tensor.datatype
    try:
        if len(tensor.shape) == 2 and data[1:].lstrip().startswith(b"["):
            return [value for (value,) in NESTED[datatype].decode(data)]
        return FLAT[datatype].decode(data)
    except (ValueError, RecursionError):
        raise Invalid(
            422, f"{tensor.name}: the data must be a list of {datatype} values or null"
        ) from None


def from_bytes(name: str, datatype: str, data: bytes) -> list[Any]:
    """Return the values of a binary tensor: little-endian numbers, or texts each after its length."""
    if datatype == "BYTES":
        return list(texts(name, data))
    dtype = np.dtype(DTYPES[datatype])
    if len(data) % dtype.itemsize:
        raise Invalid(400, f"{name}: the binary data does not hold whole {datatype} values")
    if datatype == "BOOL" and data.strip(b"\0\1"):
        raise Invalid(422, f"{name}: a BOOL is the byte 0 or 1")
    values: list[Any] = np.frombuffer(data, dtype).tolist()
    return values


def texts(name: str, data: bytes) -> Iterable[str]:
    start = 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 4], "little")
        end = start + 4 + length
        if end > len(data):
            raise Invalid(400, f"{name}: the binary data does not hold whole texts")
        try:
            yield data[start + 4 : end].decode()
        except UnicodeDecodeError:
            raise Invalid(422, f"{name}: a text is not valid UTF-8") from None
        start = end


def typed(values: list[Any], datatype: str, column: Column) -> list[Any]:
    """Return values as the contract has them: None for NaN and for empty text, whole numbers as int."""
    if datatype == "BYTES" and "" not in (column.categories or ()):
        return [value or None for value in values]
    if not datatype.startswith("FP"):
        return values
    values = [None if value is None or value != value else value for value in values]
    if datatype != "FP64":
        # A limit such as 0.1 is no float32: what comes closest to it would often be beyond it.
        with np.errstate(over="ignore"):
            nearest = {
                float(np.asarray(limit).astype(DTYPES[datatype])): limit for limit in column.limits
            }
        values = [
            value if value in (np.inf, -np.inf) else nearest.get(value, value) for value in values
        ]
    if column.type == "integer":
        return [
            int(value) if value is not None and value.is_integer() else value for value in values
        ]
    return values


def wanted(request: Request, known: list[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names of the outputs that a request asks for, by default all, and which of them as bytes."""
    default = (request.parameters or {}).get("binary_data_output", False)
    asked = request.outputs or [Output(name) for name in known]
    names = tuple(output.name for output in asked)
    if not set(names) <= set(known) or len(set(names)) != len(names):
        raise Invalid(422, f"outputs must be of {', '.join(known)}, each once")
    flags = [(output.parameters or {}).get("binary_data", default) for output in asked]
    if not all(isinstance(flag, bool) for flag in flags):
        raise Invalid(422, "binary_data and binary_data_output must be true or false")
    return names, frozenset(name for name, flag in zip(names, flags, strict=True) if flag)


def answer(
    inference: Inference,
    answers: Sequence[dict[str, Any]],
    ids: Sequence[str],
    model_version: str,
    schema: Schema,
) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of the response; an answer and an id per row, as /v1/predict has them."""
    tensors, binary, known = [], [], output_tensors(schema)
    for name in inference.outputs:
        datatype, *width = known[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(ids), *width]}
        values: Any = ids if name == "prediction_id" else [row[name] for row in answers]
        parameters: dict[str, Any] = {}
        if name == "probabilities":  # a parameter is a text, number or boolean: no list
            parameters["classes"] = json.dumps(schema.classes, ensure_ascii=False)
            values = [[row[label] for label in schema.classes] for row in values]
        if width:
            values = list(chain.from_iterable(values))
        if name in inference.binary:
            binary.append(as_bytes(values, datatype))
            parameters["binary_data_size"] = len(binary[-1])
        else:
            tensor["data"] = values
        tensors.append(tensor | ({"parameters": parameters} if parameters else {}))
    about = {"model_name": current_project().name, "model_version": model_version}
    about |= {"id": inference.id} if inference.id is not None else {}
    body = msgspec.json.encode({**about, "outputs": tensors})
    if not binary:
        return body, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(body))}
    return b"".join((body, *binary)), headers


def as_bytes(values: Sequence[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, DTYPES[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
