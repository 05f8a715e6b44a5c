"""Outcomes: what really happened, as the API is told it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_loop.contract.schema import LARGEST, Schema
from mlops_loop.serving.request_schema import Invalid, refuse_repeated, told

MOST = 10_000  # in one request
ANY_ID = "019a7c3e51d0f4b28c6e9d2a7b150000"  # in examples
COUNTS = "recorded", "repeated", "corrected"
RECORDED = {
    "type": "object",
    "title": "Recorded",
    "properties": {name: {"type": "integer"} for name in COUNTS}
    | {
        "unknown": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Places, from 0, of outcomes whose prediction is not in the log",
        }
    },
    "required": [*COUNTS, "unknown"],
    "example": {"recorded": 1, "repeated": 0, "corrected": 0, "unknown": []},
}


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    prediction_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    value: str | int | float | bool


class Outcomes(msgspec.Struct, forbid_unknown_fields=True):
    outcomes: Annotated[list[Outcome], Meta(min_length=1, max_length=MOST)]


def read_outcomes(body: bytes, schema: Schema) -> list[tuple[str, Any]]:
    """Return ids and values of a JSON body {"outcomes": [...]}; raise Invalid if one cannot be true."""
    try:
        outcomes = msgspec.json.decode(body, type=Outcomes).outcomes
    except msgspec.ValidationError as error:
        raise told(str(error), names={name: name for name in ("prediction_id", "value")}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid(400, "this is not JSON") from None
    refuse_repeated(body)
    for place, outcome in enumerate(outcomes):
        if not possible(outcome.value, schema):
            raise Invalid(422, f"is no value of {schema.target}", ["outcomes", place, "value"])
    return [(outcome.prediction_id, outcome.value) for outcome in outcomes]


def possible(value: Any, schema: Schema) -> bool:
    """Return whether a value can be the target's. A number may lie beyond what the contract expects."""
    if schema.classes:
        return value in schema.classes
    number = (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    )
    return number and (schema.columns[schema.target].type != "integer" or value == int(value))


def outcomes_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema of a request's body."""
    column = schema.columns[schema.target]
    kind = "integer" if column.type == "integer" else "number"
    example = schema.classes[0] if schema.classes else 1
    value: dict[str, Any] = {"type": kind, "minimum": -LARGEST, "maximum": LARGEST}
    if schema.classes:
        value = {"type": "string", "enum": schema.classes}
    properties = {
        "prediction_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "value": value | {"description": column.description},
    }
    item = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "title": "Outcomes",
        "properties": {
            "outcomes": {"type": "array", "items": item, "minItems": 1, "maxItems": MOST}
        },
        "required": ["outcomes"],
        "additionalProperties": False,
        "example": {"outcomes": [{"prediction_id": ANY_ID, "value": example}]},
    }
