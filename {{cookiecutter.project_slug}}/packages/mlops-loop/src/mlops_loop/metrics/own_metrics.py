"""Own metrics: those that project.py names, beside the task's."""

import math
from numbers import Real

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
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise Failure(f"{where} returned {value!r}: return a finite number")
