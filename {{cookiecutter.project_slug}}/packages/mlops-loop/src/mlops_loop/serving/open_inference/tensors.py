"""Tensors: values of a column, from JSON or from bytes, as the contract's types."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np

from mlops_loop.contract.schema import Column
from mlops_loop.contract.values import Value
from mlops_loop.scoring.predictions import Field
from mlops_loop.serving.open_inference.messages import Input, check_content_type
from mlops_loop.serving.request_schema import Invalid

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
Values = list[Value]


def json_type(datatype: str) -> object:
    """Return the type of one value of a tensor in JSON, where null is a missing one."""
    if datatype == "BOOL":
        return bool | None
    if datatype == "BYTES":
        return str | None
    if datatype.startswith("FP"):
        return float | None
    limits = np.iinfo(DTYPES[datatype])
    largest = min(int(limits.max), 2**63 - 1)  # msgspec compares with no larger one
    return Annotated[int, msgspec.Meta(ge=int(limits.min), le=largest)] | None


TYPES = {name: json_type(name) for name in (*DTYPES, "BYTES")}
FLAT = {name: msgspec.json.Decoder(list[kind]) for name, kind in TYPES.items()}  # type: ignore[valid-type]
NESTED = {name: msgspec.json.Decoder(list[tuple[kind]]) for name, kind in TYPES.items()}  # type: ignore[valid-type]


def read_tensor(tensor: Input, rows: int, column: Column, rest: bytes) -> tuple[Values, bytes]:
    """Return a tensor's values as the contract's types, and what is left of the binary data."""
    parameters = tensor.parameters or {}
    check_content_type(parameters, tensor.name)
    if tensor.datatype not in ACCEPTED[column.type]:
        accepted = ", ".join(ACCEPTED[column.type])
        raise Invalid(422, f"{tensor.name}: the datatype must be one of {accepted}")
    size = parameters.get("binary_data_size")
    if size is None:
        values = from_json(tensor)
    elif len(tensor.data):
        raise Invalid(422, f"{tensor.name} has both data and binary data")
    elif type(size) is not int or not 0 <= size <= len(rest):
        raise Invalid(400, f"{tensor.name}: the binary_data_size does not fit the body")
    else:
        values = from_bytes(tensor.name, tensor.datatype, rest[:size])
        rest = rest[size:]
    if len(values) != rows:
        raise Invalid(422, f"{tensor.name}: the number of values is not that of the shape")
    return to_contract(values, tensor.datatype, column), rest


def from_json(tensor: Input) -> Values:
    """Return the values of a tensor in JSON, a flat list or one of lists with one value each."""
    data = bytes(tensor.data)
    try:
        if len(tensor.shape) == 2 and data[1:].lstrip().startswith(b"["):
            return [value for (value,) in NESTED[tensor.datatype].decode(data)]
        return FLAT[tensor.datatype].decode(data)
    except (ValueError, RecursionError):
        expected = f"the data must be a list of {tensor.datatype} values or null"
        raise Invalid(422, f"{tensor.name}: {expected}") from None


def from_bytes(name: str, datatype: str, data: bytes) -> Values:
    """Return the values of a binary tensor: little-endian numbers, or texts after their length."""
    if datatype == "BYTES":
        return list(read_texts(name, data))
    dtype = np.dtype(DTYPES[datatype])
    if len(data) % dtype.itemsize:
        raise Invalid(400, f"{name}: the binary data does not hold whole {datatype} values")
    if datatype == "BOOL" and data.strip(b"\0\1"):
        raise Invalid(422, f"{name}: a BOOL is the byte 0 or 1")
    values: Values = np.frombuffer(data, dtype).tolist()
    return values


def read_texts(name: str, data: bytes) -> Iterable[str]:
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


def to_contract(values: Values, datatype: str, column: Column) -> Values:
    """Return values as the contract has them: None for NaN and empty text, whole numbers as int."""
    if datatype == "BYTES" and "" not in (column.categories or ()):
        return [value or None for value in values]
    if not datatype.startswith("FP"):
        return values
    values = [None if value is None or value != value else value for value in values]
    if datatype != "FP64":
        values = snap_to_limits(values, datatype, column.limits)
    if column.type == "integer":
        return [
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in values
        ]
    return values


def snap_to_limits(values: Values, datatype: str, limits: Sequence[float]) -> Values:
    """Return values with each limit's nearest float32 replaced by the limit.

    A limit such as 0.1 is no float32: the nearest one would often lie beyond it.
    """
    with np.errstate(over="ignore"):
        nearest: dict[Value, Value] = {
            float(np.asarray(limit).astype(DTYPES[datatype])): limit for limit in limits
        }
    return [value if value in (np.inf, -np.inf) else nearest.get(value, value) for value in values]


def to_bytes(values: Sequence[Field], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, DTYPES[datatype]).tobytes()
    encoded = [str(value).encode() for value in values]
    return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)
