"""Answers: what the API answers for each row, by task."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from mlops_loop.contract.limits import ODD_NAME
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.operating_point import OperatingPoint


def chosen(scores: np.ndarray, schema: Schema, point: OperatingPoint) -> np.ndarray:
    """Return the place of each row's class.

    That is the positive one from the threshold on, or else the likeliest. `scores` are
    probabilities, shape (rows, classes).
    """
    if schema.positive is None:
        places: np.ndarray = scores.argmax(axis=1)
        return places
    place = schema.classes.index(schema.positive)
    return np.where(scores[:, place].astype(float) >= point.threshold, place, 1 - place)


def labels(scores: np.ndarray, schema: Schema, point: OperatingPoint) -> list[str]:
    """Return the class of each row."""
    classes = schema.classes
    return [classes[place] for place in chosen(scores, schema, point).tolist()]


def answerer(schema: Schema, point: OperatingPoint) -> Callable[[np.ndarray], list[Any]]:
    """Return the function that turns scores into an answer for each row.

    Answers are structs, which msgspec writes as JSON several times as fast as dictionaries.
    """
    return class_answerer(schema, point) if schema.classes else value_answerer(point.half_width)


def value_answerer(half: float) -> Callable[[np.ndarray], list[Any]]:
    fields = [("value", float), ("interval", list[float])]
    value_type = msgspec.defstruct("Value", fields, gc=False)

    def answers(scores: np.ndarray) -> list[Any]:
        values = scores[:, 0].tolist()
        return [value_type(value, [value - half, value + half]) for value in values]

    return answers


def class_answerer(schema: Schema, point: OperatingPoint) -> Callable[[np.ndarray], list[Any]]:
    classes = schema.classes
    # Classes may have any name, fields may not.
    names = {f"p{place}": name for place, name in enumerate(classes)}
    probabilities: Any = lambda *row: dict(zip(classes, row, strict=True))  # noqa: E731
    if not any(map(ODD_NAME.search, classes)):
        fields = [(field, float) for field in names]
        probabilities = msgspec.defstruct("Probabilities", fields, rename=names, gc=False)
    class_type = msgspec.defstruct("Class", [("label", str), ("probabilities", Any)], gc=False)

    def answers(scores: np.ndarray) -> list[Any]:
        rows = zip(labels(scores, schema, point), scores.tolist(), strict=True)
        return [class_type(label, probabilities(*row)) for label, row in rows]

    return answers


def with_ids(ids: list[str], outputs: list[Any]) -> list[Any]:
    """Return the answers, structs or what the log has of them, with their ids."""
    if isinstance(outputs[0], dict):
        return [{"id": name, **output} for name, output in zip(ids, outputs, strict=True)]
    names = outputs[0].__struct_fields__
    kind = identified(names)
    values = attrgetter(*names)
    return [kind(name, *values(output)) for name, output in zip(ids, outputs, strict=True)]


@cache
def identified(names: tuple[str, ...]) -> Any:
    """Return the type of an answer with its id."""
    return msgspec.defstruct(
        "Prediction", [("id", str), *((name, Any) for name in names)], gc=False
    )


def answer_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema of the answer to a request."""
    number = {"type": "number"}
    fields: dict[str, Any] = {
        "id": {"type": "string", "description": "Keep it to report the outcome"}
    }
    if schema.classes:
        fields["label"] = {"type": "string", "enum": schema.classes}
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
    prediction = {"type": "object", "properties": fields, "required": list(fields)}
    properties = {
        "model_version": {"type": "string"},
        "predictions": {"type": "array", "items": prediction},
    }
    return {
        "type": "object",
        "title": "Answer",
        "properties": properties,
        "required": list(properties),
    }
