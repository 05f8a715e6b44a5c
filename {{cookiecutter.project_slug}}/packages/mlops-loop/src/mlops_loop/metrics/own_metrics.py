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
        where = f"project.py: metrics: {name}"
        if name in found:
            taken = f"is a metric of {scored.schema.task} already: give yours another name"
            raise Failure(f"{where} {taken}")
        found[name] = checked(where, metric(scored.truth, scored.scores, scored.schema))
    return found


def checked(where: str, value: object) -> float:
    """Return the value of an own metric, which must be a finite number."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
        return float(number)
    raise Failure(f"{where} returned {value!r}: return a finite number")
