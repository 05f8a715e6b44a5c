"""Read the body of POST /v2/models/NAME/infer: columns of the contract are input tensors."""

from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Row
from mlops_loop.serving.open_inference.messages import (
    HEADER,
    Inference,
    Input,
    Output,
    Request,
    count_rows,
    decode,
)
from mlops_loop.serving.open_inference.outputs import output_tensors
from mlops_loop.serving.open_inference.tensors import Values, read_tensor
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid, no_input


def read_inference(body: bytes, header_length: int | None, schema: Schema) -> Inference:
    """Return the inference that a body asks for; without `header_length` it is all JSON.

    Whether values keep the contract is not checked here. Raises Invalid: 400 for what is not in the
    format, 413 for too many rows, 422 for tensors that are not the model's.
    """
    if header_length is None:
        header_length = len(body)
    elif not 0 < header_length <= len(body):
        raise Invalid(400, f"{HEADER} does not fit the body")
    request = decode(body[:header_length], len(schema.inputs) + 1)  # one more, to name it
    values = read_inputs(request, body[header_length:], schema)
    records: list[Row] = [
        dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)
    ]
    return Inference(request.id, *wanted_outputs(request, list(output_tensors(schema))), records)


def read_inputs(request: Request, rest: bytes, schema: Schema) -> dict[str, Values]:
    """Return the values of each column; `rest` is what follows the JSON."""
    rows = count_rows(request)
    values: dict[str, Values] = {}
    for place, tensor in enumerate(request.inputs):
        check_name(tensor, place, schema)
        if tensor.name in values:
            raise Invalid(422, f"{tensor.name} is there twice", column=tensor.name)
        try:
            column = schema.inputs[tensor.name]
            values[tensor.name], rest = read_tensor(tensor, rows, column, rest)
        except Invalid as error:
            error.column = tensor.name
            raise
    if rest:
        raise Invalid(400, f"{len(rest)} bytes after the last binary tensor belong to none")
    required = [name for name, column in schema.inputs.items() if not column.nullable]
    if missing := [name for name in required if name not in values]:
        raise Invalid(422, f"inputs are missing: {', '.join(missing)}", column=missing[0])
    return values


def check_name(tensor: Input, place: int, schema: Schema) -> None:
    if tensor.name in schema.inputs:
        return
    if tensor.name in schema.columns:
        raise Invalid(422, no_input(tensor.name, schema), column=tensor.name)
    known = ", ".join(schema.inputs)
    reason = f"inputs[{place}] is not an input of the model: {known}"
    raise Invalid(422, reason, column=NOT_A_COLUMN)


def wanted_outputs(request: Request, known: list[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names of the wanted outputs, by default all, and which of them as bytes."""
    outputs = request.outputs or [Output(name) for name in known]
    names = tuple(output.name for output in outputs)
    if not set(names) <= set(known) or len(set(names)) != len(names):
        raise Invalid(422, f"outputs must be of {', '.join(known)}, each once")
    default = (request.parameters or {}).get("binary_data_output", False)
    flags = [(output.parameters or {}).get("binary_data", default) for output in outputs]
    if not all(isinstance(flag, bool) for flag in flags):
        raise Invalid(422, "binary_data and binary_data_output must be true or false")
    return names, frozenset(name for name, flag in zip(names, flags, strict=True) if flag)
