"""Own metrics: those that project.py names, beside the task's."""

import math
import numbers

import numpy as np

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Metrics, Scores, Truth
from mlops_loop.scoring.operating_point import OperatingPoint


def measure(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Metrics:
    """Return the task's metrics of scores, and the project's own."""
    found = tasks.of(schema).measure(truth, scores, point, schema, params)
    for name, metric in project.load_all("metrics").items():
        if name in found:
            taken = f"project.py: metrics: {name} is a metric of {schema.task} already"
            raise Failure(f"{taken}: give yours another name")
        found[name] = checked(name, metric(truth, scores, schema))
    return found


def checked(name: str, value: object) -> float:
    """Return the value of an own metric, which must be a finite number."""
    number = value.item() if isinstance(value, np.generic) else value
    if (
        isinstance(number, bool)
        or not isinstance(number, numbers.Real)
        or not math.isfinite(number)
    ):
        raise Failure(f"project.py: metrics: {name} returned {value!r}: return a finite number")
    return float(number)
