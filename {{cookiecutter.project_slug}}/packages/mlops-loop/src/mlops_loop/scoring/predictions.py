"""Answers: what the API answers for each row, by task."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from mlops_loop.contract.limits import ODD_NAME


def chosen(scores: np.ndarray, manifest: dict[str, Any]) -> np.ndarray:
    """Return the place of each row's class: the positive one from the threshold on, or else the likeliest.

    `scores` are probabilities, shape (rows, classes).
    """
    places: np.ndarray = scores.argmax(axis=1)
    if manifest.get("positive") is not None:
        place = manifest["classes"].index(manifest["positive"])
        places = np.where(scores[:, place].astype(float) >= manifest["threshold"], place, 1 - place)
    return places


def labels(scores: np.ndarray, manifest: dict[str, Any]) -> list[str]:
    """Return the class of each row."""
    classes = manifest["classes"]
    return [classes[place] for place in chosen(scores, manifest).tolist()]


def answerer(manifest: dict[str, Any]) -> Callable[[np.ndarray], list[Any]]:
    """Return the function that turns scores into one answer a row, as structs that msgspec writes as JSON."""
    if not manifest["classes"]:
        half = manifest["half_width"]
        value_type = msgspec.defstruct(
            "Value", [("value", float), ("interval", list[float])], gc=False
        )
        return lambda scores: [
            value_type(value, [value - half, value + half]) for value in scores[:, 0].tolist()
        ]
    # Classes may have any name, fields may not.
    classes = manifest["classes"]
    names = {f"p{place}": name for place, name in enumerate(classes)}
    probabilities: Any = lambda *row: dict(zip(classes, row, strict=True))  # noqa: E731
    if not any(map(ODD_NAME.search, classes)):
        probabilities = msgspec.defstruct(
            "Probabilities", [(field, float) for field in names], rename=names, gc=False
        )
    class_type = msgspec.defstruct("Class", [("label", str), ("probabilities", Any)], gc=False)

    def answers(scores: np.ndarray) -> list[Any]:
        rows = zip(labels(scores, manifest), scores.tolist(), strict=True)
        return [class_type(label, probabilities(*row)) for label, row in rows]

    return answers


def with_ids(ids: list[str], outputs: list[Any]) -> list[Any]:
    """Return the answers, structs or what the log has of them, with their ids."""
    if isinstance(outputs[0], dict):
        return [{"id": name, **output} for name, output in zip(ids, outputs, strict=True)]
    names = outputs[0].__struct_fields__
    kind, values = identified(names), attrgetter(*names)
    return [kind(name, *values(output)) for name, output in zip(ids, outputs, strict=True)]


@cache
def identified(names: tuple[str, ...]) -> Any:
    """Return the type of an answer with its id."""
    return msgspec.defstruct(
        "Prediction", [("id", str), *((name, Any) for name in names)], gc=False
    )


def answer_schema(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of the answer to a request."""
    number = {"type": "number"}
    told: dict[str, Any] = {
        "id": {"type": "string", "description": "Keep it to report the outcome"}
    }
    if manifest["classes"]:
        told["label"] = {"type": "string", "enum": manifest["classes"]}
        shares = dict.fromkeys(manifest["classes"], number)
        told["probabilities"] = {
            "type": "object",
            "properties": shares,
            "required": manifest["classes"],
        }
    else:
        interval = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        told["value"] = number
        told["interval"] = interval | {
            "description": "Made to hold the truth as often as the card says"
        }
    prediction = {"type": "object", "properties": told, "required": list(told)}
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
