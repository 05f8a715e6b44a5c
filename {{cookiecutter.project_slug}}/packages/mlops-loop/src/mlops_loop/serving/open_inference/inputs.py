"""Input tensors: the body of POST /v2/models/NAME/infer, and rows of the contract from it."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import MAX_ROWS, Row, Value
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid, no_input

HEADER = "Inference-Header-Content-Length"  # bytes of JSON, after which binary tensors follow
CONTENT_TYPES = (None, "np", "pd", "str")  # MLServer's: none changes how a tensor is read
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
Parameters = dict[str, Any] | None
Values = list[Value]


class Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters = None


class Output(msgspec.Struct):
    name: str
    parameters: Parameters = None


class Inference(msgspec.Struct):
    """The JSON of a request."""

    inputs: Annotated[list[Input], msgspec.Meta(min_length=1)]
    outputs: list[Output] | None = None
    id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    parameters: Parameters = None


DECODER = msgspec.json.Decoder(Inference)


def read_inference(body: bytes, header_length: str | None) -> tuple[Inference, bytes]:
    """Return what a body asks for, and the binary data after it. Raises Invalid."""
    length = len(body)  # all of it is JSON
    if header_length is not None:
        if not (header_length.isdecimal() and len(header_length) < 16):
            raise Invalid(400, f"{HEADER} must be a number of bytes")
        length = int(header_length)
        if not 0 < length <= len(body):
            raise Invalid(400, f"{HEADER} does not fit the body")
    try:
        found = DECODER.decode(body[:length])
    except msgspec.ValidationError as error:
        raise Invalid(422, f"the request does not follow this protocol: {error}") from None
    except (ValueError, RecursionError):  # also MsgspecError and UnicodeDecodeError
        raise Invalid(400, "the body is not valid JSON") from None
    for parameters in (found.parameters, *(tensor.parameters for tensor in found.inputs)):
        if (parameters or {}).get("content_type") not in CONTENT_TYPES:
            raise Invalid(422, "the content_type must be np, pd or str, if there is one")
    return found, body[length:]


def to_records(inference: Inference, rest: bytes, schema: Schema) -> list[Row]:
    """Return the rows of the tensors. Whether they keep the contract is not checked here.

    Raises Invalid: 400 for what is not in the format, 413 for too many rows, 422 for tensors that
    are not the model's.
    """
    rows = count_rows(inference)
    columns: dict[str, Values] = {}
    for place, tensor in enumerate(inference.inputs):
        name = tensor.name
        if name not in schema.inputs:
            raise unknown_input(name, place, schema)
        if name in columns:
            raise Invalid(422, f"{name} is there twice", column=name)
        try:
            values, rest = read_tensor(tensor, schema.inputs[name], rest)
            if len(values) != rows:
                raise Invalid(422, "the number of values is not that of the shape")
        except Invalid as error:
            raise Invalid(error.status_code, f"{name}: {error.text}", column=name) from None
        columns[name] = to_contract(values, tensor.datatype, schema.inputs[name])
    if rest:
        raise Invalid(400, f"{len(rest)} bytes after the last binary tensor belong to none")
    required = [name for name, column in schema.inputs.items() if not column.nullable]
    if missing := [name for name in required if name not in columns]:
        raise Invalid(422, f"inputs are missing: {', '.join(missing)}", column=missing[0])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def unknown_input(name: str, place: int, schema: Schema) -> Invalid:
    if name in schema.columns:
        return Invalid(422, no_input(name, schema), column=name)
    known = ", ".join(schema.inputs)
    reason = f"inputs[{place}] is not an input of the model: {known}"
    return Invalid(422, reason, column=NOT_A_COLUMN)


def count_rows(inference: Inference) -> int:
    """Return how many rows the tensors have: all the same number."""
    rows = next(iter(inference.inputs[0].shape), 0)
    if any(tensor.shape not in ([rows], [rows, 1]) for tensor in inference.inputs):
        reason = "the shape of each input must be [rows] or [rows, 1], all with the same rows"
        raise Invalid(422, reason)
    if not 1 <= rows <= MAX_ROWS:
        raise Invalid(413 if rows > 1 else 422, f"a request has 1 to {MAX_ROWS} rows")
    return rows


def read_tensor(tensor: Input, column: Column, binary: bytes) -> tuple[Values, bytes]:
    """Return a tensor's values, and what is left of the binary data."""
    accepted = ACCEPTED[column.type]
    if tensor.datatype not in accepted:
        raise Invalid(422, f"the datatype must be one of {', '.join(accepted)}")
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        data = tensor.data or []
        if len(tensor.shape) == 2:  # it may be nested
            data = [x[0] if isinstance(x, list) and len(x) == 1 else x for x in data]
        return data, binary
    if tensor.data is not None:
        raise Invalid(422, "it has both data and binary data")
    if type(size) is not int or not 0 <= size <= len(binary):
        raise Invalid(400, "the binary_data_size does not fit the body")
    return from_bytes(tensor.datatype, binary[:size]), binary[size:]


def from_bytes(datatype: str, data: bytes) -> Values:
    """Return the values of a binary tensor: little-endian numbers, or texts after their length."""
    if datatype == "BYTES":
        return list(read_texts(data))
    dtype = np.dtype(DTYPES[datatype])
    if len(data) % dtype.itemsize:
        raise Invalid(400, f"the binary data does not hold whole {datatype} values")
    if datatype == "BOOL" and data.strip(b"\0\1"):
        raise Invalid(422, "a BOOL is the byte 0 or 1")
    values: Values = np.frombuffer(data, dtype).tolist()
    return values


def read_texts(data: bytes) -> Iterator[str]:
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data):
            raise Invalid(400, "the binary data does not hold whole texts")
        try:
            yield data[start + 4 : end].decode()
        except UnicodeDecodeError:
            raise Invalid(422, "a text is not valid UTF-8") from None
        start = end


def to_contract(values: Values, datatype: str, column: Column) -> Values:
    """Return values as the contract has them: None for NaN and empty text, whole numbers as int."""
    if datatype == "BYTES" and "" not in (column.categories or ()):
        return [None if value == "" else value for value in values]
    if not datatype.startswith("FP"):
        return values
    values = [None if value != value else value for value in values]
    if column.type == "integer":
        values = [int(x) if isinstance(x, float) and x.is_integer() else x for x in values]
    return values
