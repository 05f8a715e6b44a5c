"""The types of what metrics are computed from, and of what comes out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # loaded by what draws only

# Whether a row is of the positive class, the number of its class, or its value; shape (rows,).
Truth = NDArray[np.bool_ | np.int64 | np.float64]
# Probabilities, shape (rows, classes) in the order of `schema.classes`; or values, (rows, 1).
Scores = NDArray[np.float64]
Predictions = NDArray[np.float64 | np.object_]  # values, or names of classes; shape (rows,)
Names = NDArray[np.object_ | np.str_]  # of classes
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Metrics = dict[str, float]
Weights = NDArray[np.int64 | np.float64]  # of the rows, >= 0
Weighted = Callable[[Weights], Metrics]
Intervals = dict[str, tuple[float, float]]  # of metrics: low, high
Plots = dict[str, tuple["Figure", pd.DataFrame]]  # pictures, and the tables behind them
PlotOptions = dict[str, dict[str, str | dict[str, str]]]  # of a plot in dvc.yaml, by its title


def plot(title: str, x: str, y: str, table: str, template: str = "") -> PlotOptions:
    """Return an entry of dvc.yaml that plots two columns of a table in reports/plots."""
    chosen = {"template": template} if template else {}
    return {title: {"x": x, "y": {f"reports/plots/{table}.csv": y}, **chosen}}


class Measured(TypedDict, total=False):
    """What reports/metrics.json holds: the metrics of each window, and the operating point."""

    test: Metrics
    baseline: Metrics
    validation: Metrics
    threshold: float
    half_width: float


class LoggedAnswer(TypedDict, total=False):
    """What the prediction log holds of an answer: of a class, or of a value."""

    label: str
    probabilities: dict[str, float]
    value: float
    interval: list[float]
