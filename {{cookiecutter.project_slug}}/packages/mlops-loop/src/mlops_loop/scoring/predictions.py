"""Answers: what the API answers for each row, by task."""

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import TypedDict

import msgspec
from pydantic.json_schema import JsonSchemaValue as JsonSchema

from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import ODD_NAME
from mlops_loop.scoring.derived import Floats
from mlops_loop.scoring.operating_point import OperatingPoint

Field = str | float | list[float] | dict[str, float]  # a label, value, interval or probabilities
Prediction = dict[str, Field]  # for one row, as the API and the log have it
# The same as a struct: msgspec writes it several times as fast.
Output = msgspec.Struct | Prediction
Answerer = Callable[[Floats], list[msgspec.Struct]]


class AnswerBody(TypedDict):
    """The answer to a request."""

    model_version: str
    predictions: list[Prediction]


def labeller(schema: Schema, point: OperatingPoint) -> Callable[[Floats], list[str]]:
    """Return the function that gives the class of each row.

    That is the positive one from the threshold on, or else the likeliest. It takes probabilities,
    shape (rows, classes).
    """
    classes = schema.classes
    if schema.positive is None:
        return lambda scores: [classes[place] for place in scores.argmax(axis=1).tolist()]
    place = classes.index(schema.positive)
    positive = schema.positive
    negative = classes[1 - place]
    return lambda scores: [
        positive if share >= point.threshold else negative for share in scores[:, place].tolist()
    ]


def labels(scores: Floats, schema: Schema, point: OperatingPoint) -> list[str]:
    """Return the class of each row."""
    return labeller(schema, point)(scores)


def answerer(schema: Schema, point: OperatingPoint) -> Answerer:
    """Return the function that turns scores into an answer for each row."""
    return class_answerer(schema, point) if schema.classes else value_answerer(point.half_width)


def value_answerer(half: float) -> Answerer:
    fields = [("value", float), ("interval", list[float])]
    value_type = msgspec.defstruct("Value", fields, gc=False)

    def answers(scores: Floats) -> list[msgspec.Struct]:
        values = scores[:, 0].tolist()
        return [value_type(value, [value - half, value + half]) for value in values]

    return answers


def class_answerer(schema: Schema, point: OperatingPoint) -> Answerer:
    classes = schema.classes
    named = probabilities_of(classes)
    label = labeller(schema, point)
    class_type = msgspec.defstruct("Class", [("label", str), ("probabilities", object)], gc=False)

    def answers(scores: Floats) -> list[msgspec.Struct]:
        rows = zip(label(scores), named(scores.tolist()), strict=True)
        return [class_type(name, probabilities) for name, probabilities in rows]

    return answers


def probabilities_of(
    classes: list[str],
) -> Callable[[list[list[float]]], list[msgspec.Struct] | list[dict[str, float]]]:
    """Return what gives the probabilities of rows the names of their classes."""
    if any(map(ODD_NAME.search, classes)):
        return lambda rows: [dict(zip(classes, row, strict=True)) for row in rows]
    # Classes may have any name, fields may not.
    names = {f"p{place}": name for place, name in enumerate(classes)}
    fields = [(field, float) for field in names]
    kind = msgspec.defstruct("Probabilities", fields, rename=names, gc=False)
    return lambda rows: [kind(*row) for row in rows]


def with_ids(ids: Sequence[str], outputs: Sequence[Output]) -> list[Output]:
    """Return the answers, all structs or all as the log has them, with their ids."""
    pairs = zip(ids, outputs, strict=True)
    first = outputs[0]
    if isinstance(first, dict):
        return [{"id": name, **output} for name, output in pairs if isinstance(output, dict)]
    kind = identified(first.__struct_fields__)
    values = attrgetter(*first.__struct_fields__)
    return [kind(name, *values(output)) for name, output in pairs]


@cache
def identified(names: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return the type of an answer with its id."""
    fields = [("id", str), *((name, object) for name in names)]
    return msgspec.defstruct("Prediction", fields, gc=False)


def answer_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of the answer to a request."""
    number: JsonSchema = {"type": "number"}
    fields: dict[str, JsonSchema] = {
        "id": {"type": "string", "description": "Keep it to report the outcome"}
    }
    if schema.classes:
        fields["label"] = {"type": "string", "enum": [*schema.classes]}
        fields["probabilities"] = {
            "type": "object",
            "properties": dict.fromkeys(schema.classes, number),
            "required": schema.classes,
        }
    else:
        description = "Made to hold the truth as often as the card says"
        fields["value"] = number
        fields["interval"] = {
            "type": "array",
            "items": number,
            "minItems": 2,
            "maxItems": 2,
            "description": description,
        }
    prediction: JsonSchema = {"type": "object", "properties": fields, "required": list(fields)}
    properties: dict[str, JsonSchema] = {
        "model_version": {"type": "string"},
        "predictions": {"type": "array", "items": prediction},
    }
    return {
        "type": "object",
        "title": "Answer",
        "properties": properties,
        "required": list(properties),
    }
