"""Tasks: what differs by the kind of prediction; `of` gives the one that the contract names.

Each has the same methods and constants: regression.py, the shortest, says what they are.
"""

import numpy as np

from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Task as Name
from mlops_loop.metrics.classification import BinaryClassification, MulticlassClassification
from mlops_loop.metrics.regression import Regression
from mlops_loop.metrics.values import Metrics, Scored

Task = MulticlassClassification | Regression
TASKS: dict[Name, Task] = {
    "binary-classification": BinaryClassification(),
    "multiclass-classification": MulticlassClassification(),
    "regression": Regression(),
}


def of(schema: Schema) -> Task:
    return TASKS[schema.task]


def deciding_metric(schema: Schema) -> tuple[str, bool]:
    """Return the metric by which models are compared, and whether more of it is better."""
    return next(iter(of(schema).GATE_METRICS.items()))


def weighted(scored: Scored) -> Metrics:
    """Return the metrics that can be resampled, of the rows as they are."""
    with np.errstate(invalid="ignore", divide="ignore"):  # what these rows do not have is NaN
        return of(scored.schema).weighted_metrics(scored)(np.ones(len(scored.truth)))


def measure(scored: Scored) -> Metrics:
    """Return all metrics of the task."""
    others = of(scored.schema).OTHERS.items()
    return weighted(scored) | {name: float(function(scored)) for name, function in others}


def slice_metrics(scored: Scored) -> Metrics | None:
    """Return what `weighted` does; None if the rows lack the metric that a slice is held to."""
    found = weighted(scored)
    return None if np.isnan(found[of(scored.schema).SLICE_METRIC]) else found


def loss(scored: Scored) -> float:
    """Return the metric that `tune` minimises."""
    return weighted(scored)[of(scored.schema).OBJECTIVE]
