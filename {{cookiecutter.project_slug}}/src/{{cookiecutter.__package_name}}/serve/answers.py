"""Answers: what the API answers for each row, by task."""

from typing import Any

import numpy as np
from pydantic import BaseModel, Field


class Prediction(BaseModel):
    id: str = Field(description="Names this prediction in the log; keep it to report the outcome")


class Class(Prediction):
    label: str
    probabilities: dict[str, float]


class Value(Prediction):
    value: float
    interval: tuple[float, float] = Field(description="Made to hold the truth as often as the card says")


def by_threshold(scores: np.ndarray, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the positive class from the threshold on, else the other one."""
    classes = manifest["classes"]
    place = classes.index(manifest["positive"])
    names = {True: classes[place], False: classes[1 - place]}
    return [
        {
            "label": names[row[place] >= manifest["threshold"]],
            "probabilities": dict(zip(classes, row, strict=True)),
        }
        for row in scores.tolist()
    ]


def likeliest(scores: np.ndarray, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    classes = manifest["classes"]
    return [
        {"label": classes[place], "probabilities": dict(zip(classes, row, strict=True))}
        for place, row in zip(scores.argmax(axis=1).tolist(), scores.tolist(), strict=True)
    ]


def with_interval(scores: np.ndarray, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    half = manifest["half_width"]
    return [{"value": value, "interval": [value - half, value + half]} for value in scores[:, 0].tolist()]


ANSWERS: dict[str, tuple[type[Prediction], Any]] = {
    "binary-classification": (Class, by_threshold),
    "multiclass-classification": (Class, likeliest),
    "regression": (Value, with_interval),
}
