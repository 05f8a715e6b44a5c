"""Ground truth as the API takes it: reading, checking, and its JSON Schema."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_loop.contract.json_schema import JsonSchema
from mlops_loop.contract.schema import LARGEST, Schema
from mlops_loop.serving.request_schema import Invalid, refuse_repeated, to_invalid

MAX_OUTCOMES = 10_000  # in one request
ANY_ID = "019a7c3e51d0f4b28c6e9d2a7b150000"  # in examples
FIELDS = ("prediction_id", "value")
COUNTS = ("recorded", "repeated", "corrected")
Value = str | int | float | bool
RECORDED: JsonSchema = {
    "type": "object",
    "title": "Recorded",
    "properties": {
        **{name: JsonSchema(type="integer") for name in COUNTS},
        "unknown": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Positions, from 0, of outcomes whose prediction is not in the log",
        },
    },
    "required": [*COUNTS, "unknown"],
    "example": {"recorded": 1, "repeated": 0, "corrected": 0, "unknown": []},
}


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    prediction_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    value: Value


class Outcomes(msgspec.Struct, forbid_unknown_fields=True):
    outcomes: Annotated[list[Outcome], Meta(min_length=1, max_length=MAX_OUTCOMES)]


def read_outcomes(body: bytes, schema: Schema) -> list[tuple[str, Value]]:
    """Return ids and values of a JSON body {"outcomes": [...]}. Raises Invalid."""
    try:
        outcomes = msgspec.json.decode(body, type=Outcomes).outcomes
    except msgspec.ValidationError as error:
        raise to_invalid(str(error), names=dict(zip(FIELDS, FIELDS, strict=True))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid(400, "this is not JSON") from None
    refuse_repeated(body)
    for place, outcome in enumerate(outcomes):
        if not is_possible(outcome.value, schema):
            raise Invalid(422, f"is no value of {schema.target}", ["outcomes", place, "value"])
    return [(outcome.prediction_id, outcome.value) for outcome in outcomes]


def is_possible(value: Value, schema: Schema) -> bool:
    """Return whether a value can be the target's; a number may lie beyond the contract's range."""
    if schema.classes:
        return value in schema.classes
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > LARGEST:
        return False
    return schema.columns[schema.target].type != "integer" or value == int(value)


def value_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of one value."""
    column = schema.columns[schema.target]
    if schema.classes:
        return {"type": "string", "enum": [*schema.classes], "description": column.description}
    return {
        "type": "integer" if column.type == "integer" else "number",
        "minimum": -LARGEST,
        "maximum": LARGEST,
        "description": column.description,
    }


def outcomes_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of a request's body."""
    example = schema.classes[0] if schema.classes else 1
    properties: dict[str, JsonSchema] = {
        "prediction_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "value": value_schema(schema),
    }
    item: JsonSchema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "title": "Outcomes",
        "properties": {
            "outcomes": {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_OUTCOMES}
        },
        "required": ["outcomes"],
        "additionalProperties": False,
        "example": {"outcomes": [{"prediction_id": ANY_ID, "value": example}]},
    }
