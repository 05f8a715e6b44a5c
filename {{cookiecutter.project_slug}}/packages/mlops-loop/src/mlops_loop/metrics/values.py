"""Values: what metrics are computed from, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import OperatingPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # loaded by what draws only

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
Intervals = dict[str, tuple[float, float]]  # of metrics: low, high
Plots = dict[str, tuple["Figure", pd.DataFrame]]  # pictures, and the tables behind them
PlotOptions = dict[str, dict[str, str | dict[str, str]]]  # of a plot in dvc.yaml, by its title


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


def plot(title: str, x: str, y: str, table: str, template: str = "") -> PlotOptions:
    """Return an entry of dvc.yaml that plots two columns of a table in reports/plots."""
    chosen = {"template": template} if template else {}
    return {title: {"x": x, "y": {f"reports/plots/{table}.csv": y}, **chosen}}
