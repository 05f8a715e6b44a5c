"""Values: what metrics are computed from, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import OperatingPoint

# Whether a row is of the positive class, the number of its class, or its value; shape (rows,).
Truth = NDArray[np.bool_ | np.int64 | np.float64]
# Probabilities, shape (rows, classes) in the order of `schema.classes`; or values, (rows, 1).
Scores = NDArray[np.float64]
Predictions = NDArray[np.float64 | np.object_]  # values, or names of classes; shape (rows,)
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]  # of rows, or of classes
Metrics = dict[str, float]
Weights = NDArray[np.int64 | np.float64]  # of the rows, >= 0
Weighted = Callable[[Weights], Metrics]
Measure = Callable[[Weights], float]
Intervals = dict[str, tuple[float, float]]  # of metrics: low, high


@dataclass(frozen=True)
class Scored:
    """Rows with their scores: all that a metric is computed from."""

    truth: Truth
    scores: Scores
    point: OperatingPoint
    schema: Schema
    params: EvaluateParams = field(default_factory=EvaluateParams)

    def at(self, rows: Numbers) -> Self:
        return replace(self, truth=self.truth[rows], scores=self.scores[rows])


class LoggedAnswer(TypedDict, total=False):
    """What the prediction log holds of an answer: of a class, or of a value."""

    label: str
    probabilities: dict[str, float]
    value: float
    interval: list[float]


def average(values: Truth, weights: Weights) -> float:
    """Return the weighted mean: a NumPy number, so that dividing by a mean of 0 gives no error."""
    # Not `values @ weights`, whose last digits depend on the number of threads.
    mean: float = (values * weights).sum() / weights.sum()
    return mean


def mean(of_rows: Callable[[Scored], Truth]) -> Callable[[Scored], Measure]:
    """Return the metric that is the weighted mean of what a function gives for each row."""

    def prepare(scored: Scored) -> Measure:
        values = of_rows(scored)
        return lambda weights: average(values, weights)

    return prepare


class Task:
    """What tasks share: their metrics follow from a table."""

    RESAMPLED: ClassVar[dict[str, Callable[[Scored], Measure]]]  # cheap enough for a bootstrap
    OTHERS: ClassVar[dict[str, Callable[[Scored], float]]]

    def weighted_metrics(self, scored: Scored) -> Weighted:
        """Return the function that gives metrics under weights of the rows, to be resampled."""
        prepared = {name: prepare(scored) for name, prepare in self.RESAMPLED.items()}
        return lambda weights: {name: measure(weights) for name, measure in prepared.items()}
