"""Answers: what the API answers for each row, by task."""

from collections.abc import Callable, Sequence
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType
from pydantic.json_schema import JsonSchemaValue as JsonSchema

from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import ODD_NAME
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.derived import Floats

Field = str | float | list[float] | dict[str, float]  # a label, value, interval or probabilities
Prediction = dict[str, Field]  # for one row, as the API and the log have it
# The same as a struct: msgspec writes it several times as fast.
Output = msgspec.Struct | Prediction
Answerer = Callable[[Floats], list[msgspec.Struct]]
ID = ("id", str | UnsetType)  # UNSET in the log, which has it in a column of its own


def labels(scores: Floats, schema: Schema, point: OperatingPoint) -> list[str]:
    """Return the class of each row: the positive one from the threshold on, or the likeliest.

    Takes probabilities, shape (rows, classes).
    """
    classes = schema.classes
    if schema.positive is None:
        return [classes[place] for place in scores.argmax(axis=1).tolist()]
    place = classes.index(schema.positive)
    names = classes[1 - place], schema.positive
    return [names[share >= point.threshold] for share in scores[:, place].tolist()]


def answerer(schema: Schema, point: OperatingPoint) -> Answerer:
    """Return the function that turns scores into an answer for each row."""
    fields = [("value", float), ("interval", list[float])]
    if schema.classes:
        fields = [("label", str), ("probabilities", object)]
    answer = msgspec.defstruct("Prediction", [ID, *fields], gc=False)
    named = probabilities_of(schema.classes)
    half = point.half_width

    def classified(scores: Floats) -> list[msgspec.Struct]:
        rows = zip(labels(scores, schema, point), scores.tolist(), strict=True)
        return [answer(UNSET, label, named(row)) for label, row in rows]

    def valued(scores: Floats) -> list[msgspec.Struct]:
        values = scores[:, 0].tolist()
        return [answer(UNSET, value, [value - half, value + half]) for value in values]

    return classified if schema.classes else valued


def probabilities_of(classes: list[str]) -> Callable[[list[float]], object]:
    """Return what gives the probabilities of a row the names of their classes."""
    if any(map(ODD_NAME.search, classes)):
        return lambda row: dict(zip(classes, row, strict=True))
    # Classes may have any name, fields may not.
    names = {f"p{place}": name for place, name in enumerate(classes)}
    fields = [(field, float) for field in names]
    kind = msgspec.defstruct("Probabilities", fields, rename=names, gc=False)
    return lambda row: kind(*row)


def with_ids(ids: Sequence[str], outputs: Sequence[Output]) -> Sequence[Output]:
    """Return the answers, structs or what the log has of them, with their ids."""
    if isinstance(outputs[0], dict):
        logged = cast(Sequence[Prediction], outputs)
        return [{"id": name, **output} for name, output in zip(ids, logged, strict=True)]
    for name, output in zip(ids, outputs, strict=True):
        output.id = name  # type: ignore[union-attr]
    return outputs


def answer_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of the answer to a request."""
    number = {"type": "number"}
    fields: JsonSchema = {"id": {"type": "string", "description": "Keep it to report the outcome"}}
    if schema.classes:
        fields["label"] = {"type": "string", "enum": [*schema.classes]}
        fields["probabilities"] = object_schema(dict.fromkeys(schema.classes, number))
    else:
        description = "Made to hold the truth as often as the card says"
        interval = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        fields["value"] = number
        fields["interval"] = interval | {"description": description}
    predictions = {"type": "array", "items": object_schema(fields)}
    answer = object_schema({"model_version": {"type": "string"}, "predictions": predictions})
    return answer | {"title": "Answer"}


def object_schema(properties: dict[str, JsonSchema]) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties)}
