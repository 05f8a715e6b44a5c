"""Tensors: rows of the contract from those of a request, and predictions as those of a response."""

import json
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import MAX_ROWS, Row, Value
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid, Reader
from mlops_loop.serving.service import Answer

HEADER = "Inference-Header-Content-Length"  # bytes of JSON, after which binary tensors follow
# NumPy's names of the datatypes that are numbers. BYTES is text, in UTF-8.
DTYPES = {
    "BOOL": "?",
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}
NUMBERS = tuple(name for name in DTYPES if name != "BOOL")
# The datatypes that a column may come in, by its type; the metadata names the first one.
ACCEPTED = {
    "number": ("FP64", *NUMBERS),
    "integer": ("INT64", *NUMBERS),
    "boolean": ("BOOL",),
    "category": ("BYTES",),
    "timestamp": ("BYTES",),  # in ISO 8601
}
IDS = "prediction_id"


class Parameters(msgspec.Struct, omit_defaults=True):
    """Those of tensors and requests that matter here; others are left alone."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classes: str | None = None  # as JSON: a parameter is a text, number or boolean, and no list


class Tensor(msgspec.Struct, omit_defaults=True):
    """An input or output; without `data` its values follow as bytes."""

    name: str
    shape: list[int] = []  # of an output that is asked for, neither is there
    datatype: str = ""
    data: list[Any] | None = None
    parameters: Parameters | None = None


class Inference(msgspec.Struct):
    """The JSON of a request."""

    inputs: Annotated[list[Tensor], Meta(min_length=1)]
    outputs: list[Tensor] | None = None
    id: str | None = None
    parameters: Parameters | None = None


NO_PARAMETERS = Parameters()
DECODER = msgspec.json.Decoder(Inference)


def read_inference(body: bytes, header_length: str | None) -> tuple[Inference, bytes]:
    """Return what a body asks for, and the binary data after it. Raises Invalid."""
    length = len(body)  # all of it is JSON
    if header_length is not None:
        fits = header_length.isdecimal() and len(header_length) < 16
        length = int(header_length) if fits else 0
        if not 0 < length <= len(body):
            raise Invalid(400, f"{HEADER} does not fit the body")
    try:
        return DECODER.decode(body[:length]), body[length:]
    except msgspec.ValidationError as error:
        raise Invalid(422, f"the request does not follow this protocol: {error}") from None
    except (ValueError, RecursionError):  # also MsgspecError and UnicodeDecodeError
        raise Invalid(400, "the body is not valid JSON") from None


def to_records(inference: Inference, rest: bytes, reader: Reader) -> list[Row]:
    """Return the rows of the tensors; whether they keep the contract is not checked here."""
    columns: dict[str, list[Value]] = {}
    for place, tensor in enumerate(inference.inputs):
        name = tensor.name
        if name not in reader.inputs:
            reason = f"inputs[{place}] is not an input of the model: {', '.join(reader.inputs)}"
            column = name if name in reader.others else NOT_A_COLUMN
            raise Invalid(422, reader.others.get(name, reason), column=column)
        try:
            values, rest = read_tensor(tensor, reader.inputs[name], rest)
        except Invalid as error:
            raise Invalid(error.status_code, f"{name}: {error.text}", column=name) from None
        if name in columns or tensor.shape not in ([len(values)], [len(values), 1]):
            reason = f"{name} is there twice, or its shape is not [rows] or [rows, 1]"
            raise Invalid(422, reason, column=name)
        columns[name] = values
    if rest:
        raise Invalid(400, f"{len(rest)} bytes after the last binary tensor belong to none")
    rows = {len(values) for values in columns.values()}
    if rows == {0} or len(rows) > 1:
        raise Invalid(422, "the inputs must have the same number of rows, one at least")
    if max(rows) > MAX_ROWS:
        raise Invalid(413, f"a request has at most {MAX_ROWS} rows")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_tensor(tensor: Tensor, column: Column, binary: bytes) -> tuple[list[Value], bytes]:
    """Return a tensor's values, and what is left of the binary data."""
    accepted = ACCEPTED[column.type]
    if tensor.datatype not in accepted:
        raise Invalid(422, f"the datatype must be one of {', '.join(accepted)}")
    values = tensor.data or []
    if len(tensor.shape) == 2:  # it may be nested
        values = [x[0] if isinstance(x, list) and len(x) == 1 else x for x in values]
    size = (tensor.parameters or NO_PARAMETERS).binary_data_size
    if size is not None:
        if values or size > len(binary):
            raise Invalid(422, "the binary_data_size does not fit the body")
        try:
            values = from_bytes(tensor.datatype, binary[:size])
        except ValueError:  # also UnicodeDecodeError
            raise Invalid(400, "the binary data is not of its datatype") from None
    if tensor.datatype == "BYTES" and "" not in (column.categories or ()):
        values = [None if value == "" else value for value in values]
    if tensor.datatype.startswith("FP"):
        values = [None if value != value else value for value in values]  # NaN
    return values, binary[size or 0 :]


def from_bytes(datatype: str, data: bytes) -> list[Value]:
    """Return the values of a binary tensor: little-endian numbers, or texts after their length."""
    if datatype != "BYTES":
        values: list[Value] = np.frombuffer(data, DTYPES[datatype]).tolist()
        return values
    texts: list[Value] = []
    rest = memoryview(data)
    while rest:
        end = 4 + int.from_bytes(rest[:4], "little")
        if end > len(rest):
            raise ValueError("a text is cut off")
        texts.append(str(rest[4:end], "utf-8"))
        rest = rest[end:]
    return texts


def to_bytes(values: list[Any]) -> bytes:
    """Return the values of an output as `from_bytes` reads them: FP64 or BYTES."""
    if not isinstance(values[0], str):
        return np.array(values, DTYPES["FP64"]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)


def output_tensors(schema: Schema, rows: int) -> dict[str, Tensor]:
    """Return the outputs in their order, without values."""
    tensors = [Tensor("value", [rows], "FP64"), Tensor("interval", [rows, 2], "FP64")]
    if classes := schema.classes:
        names = Parameters(classes=json.dumps(classes, ensure_ascii=False))
        tensors = [
            Tensor("label", [rows], "BYTES"),
            Tensor("probabilities", [rows, len(classes)], "FP64", parameters=names),
        ]
    return {tensor.name: tensor for tensor in (*tensors, Tensor(IDS, [rows], "BYTES"))}


def wanted_outputs(request: Inference, schema: Schema) -> dict[str, bool]:
    """Return the names of the wanted outputs, by default all, and whether as bytes."""
    known = output_tensors(schema, -1)
    default = (request.parameters or NO_PARAMETERS).binary_data_output
    wanted = {}
    for output in request.outputs or known.values():
        flag = (output.parameters or NO_PARAMETERS).binary_data
        wanted[output.name] = default if flag is None else flag
    if not wanted.keys() <= known.keys():
        raise Invalid(422, f"outputs must be of {', '.join(known)}")
    return wanted


def to_tensors(
    answer: Answer, wanted: dict[str, bool], schema: Schema
) -> tuple[list[Tensor], bytes]:
    """Return the wanted outputs of an answer, and the bytes of those that are wanted as bytes."""
    predictions = msgspec.to_builtins(answer.outputs)
    known = output_tensors(schema, len(answer.ids))
    binary = []
    for name, as_bytes in wanted.items():
        values: list[Any] = [prediction.get(name) for prediction in predictions]
        if name == "probabilities":
            values = [shares[label] for shares in values for label in schema.classes]
        if name == "interval":
            values = list(chain.from_iterable(values))
        if name == IDS:
            values = [*answer.ids]
        if as_bytes:
            binary.append(to_bytes(values))
            parameters = known[name].parameters or Parameters()
            parameters.binary_data_size = len(binary[-1])
            known[name].parameters = parameters
        else:
            known[name].data = values
    return [known[name] for name in wanted], b"".join(binary)
