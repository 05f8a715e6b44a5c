"""The JSON of the protocol's requests: what a request asks for, and its tensors as they came."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from mlops_loop.contract.values import MAX_ROWS, Row
from mlops_loop.serving.request_schema import Invalid

HEADER = "Inference-Header-Content-Length"  # bytes of JSON, after which binary tensors follow
CONTENT_TYPES = (None, "np", "pd", "str")  # MLServer's: none changes how a tensor is read
Parameters = dict[str, Any] | None


class Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters = None


class Output(msgspec.Struct):
    name: str
    parameters: Parameters = None


class Request(msgspec.Struct):
    inputs: Annotated[list[Input], msgspec.Meta(min_length=1)]
    outputs: list[Output] | None = None
    id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    parameters: Parameters = None


@dataclass(frozen=True)
class Inference:
    """A request that was read: rows to score, and the outputs that the client wants."""

    id: str | None
    outputs: tuple[str, ...]  # names, in the order of the response
    binary: frozenset[str]  # those that are wanted as bytes after the JSON
    records: list[Row]  # None is a missing value


DECODER = msgspec.json.Decoder(Request)


def header_length(text: str | None) -> int | None:
    """Return the value of HEADER, if a request has it. Raises Invalid."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Invalid(400, f"{HEADER} must be a number of bytes")
    return int(text)


def decode(header: bytes, max_inputs: int) -> Request:
    """Return the JSON of a request; the tensors' data stay as they are."""
    try:
        request = DECODER.decode(header)
        if len(request.inputs) > max_inputs:
            raise Invalid(422, f"the model has {max_inputs} inputs")
    except msgspec.ValidationError as error:
        raise Invalid(422, f"the request does not follow this protocol: {error}") from None
    except (ValueError, RecursionError):  # also MsgspecError and UnicodeDecodeError
        raise Invalid(400, "the body is not valid JSON") from None
    check_content_type(request.parameters, "the request")
    return request


def check_content_type(parameters: Parameters, where: str) -> None:
    if (parameters or {}).get("content_type") not in CONTENT_TYPES:
        raise Invalid(422, f"{where}: the content_type must be np, pd or str, if there is one")


def count_rows(request: Request) -> int:
    """Return how many rows the tensors have: all the same number."""
    shapes = [tensor.shape for tensor in request.inputs]
    if any(len(shape) not in (1, 2) or shape[1:] not in ([], [1]) for shape in shapes):
        raise Invalid(422, "the shape of an input must be [rows] or [rows, 1]")
    rows = shapes[0][0]
    if any(shape[0] != rows for shape in shapes):
        raise Invalid(422, "the inputs differ in their number of rows")
    if rows < 1:
        raise Invalid(422, "a request has at least one row")
    if rows > MAX_ROWS:
        raise Invalid(413, f"a request has at most {MAX_ROWS} rows")
    return rows
