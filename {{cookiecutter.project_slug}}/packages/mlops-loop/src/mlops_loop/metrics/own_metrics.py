"""Own metrics: those that project.py names, beside the task's."""

import math

import numpy as np

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Metrics, Scored


def measure(scored: Scored) -> Metrics:
    """Return the task's metrics, the number of rows, and the project's own metrics."""
    found = tasks.measure(scored) | {"rows": len(scored.truth)}
    for name, metric in project.load_all("metrics").items():
        if name in found:
            taken = f"project.py: metrics: {name} is a metric of {scored.schema.task} already"
            raise Failure(f"{taken}: give yours another name")
        found[name] = checked(name, metric(scored.truth, scored.scores, scored.schema))
    return found


def checked(name: str, value: object) -> float:
    """Return the value of an own metric, which must be a finite number."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
        return float(number)
    raise Failure(f"project.py: metrics: {name} returned {value!r}: return a finite number")
