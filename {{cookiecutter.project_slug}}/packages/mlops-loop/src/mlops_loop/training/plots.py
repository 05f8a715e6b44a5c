"""Plots of the test window, with the tables behind them; dvc_plots/ says what `dvc plots` draws."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics
from sklearn.calibration import CalibrationDisplay

from mlops_loop.metrics.classification import called, codes, pairs
from mlops_loop.metrics.regression import errors, held
from mlops_loop.metrics.values import Scored

Plot = tuple[Figure, pd.DataFrame]
Display = type[metrics.RocCurveDisplay | metrics.PrecisionRecallDisplay | CalibrationDisplay]
Draw = Callable[[Scored, Axes], pd.DataFrame]
POINTS = 2000  # in a scatter plot


def draw(scored: Scored) -> dict[str, Plot]:
    """Return the task's plots by name."""
    found = {}
    for name, plot in (CLASSIFICATION if scored.schema.classes else REGRESSION).items():
        figure = Figure(layout="tight")
        found[name] = figure, plot(scored, figure.subplots())
    return found


def curves(scored: Scored, axes: Axes, display: Display, **columns: str) -> pd.DataFrame:
    """Draw the curve of the positive class, or of each; `columns` are the display's attributes."""
    bins = {"n_bins": scored.params.calibration_bins, "strategy": "quantile"}
    parts = [pd.DataFrame(columns=list(columns.values()))]
    for place, (actual, probability) in pairs(scored).items():
        if 0 < actual.sum() < len(actual):
            of = scored.schema.classes[place]
            given = bins if display is CalibrationDisplay else {}
            shown = display.from_predictions(actual, probability, name=of, ax=axes, **given)
            curve = pd.DataFrame({name: getattr(shown, its) for its, name in columns.items()})
            # A plot shows no more points; `rev` is what DVC groups by.
            thin = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 300).round().astype(int))]
            parts.append(thin if scored.schema.positive else thin.assign(rev=of))
    xlabel, ylabel = (name.replace("_", " ") for name in columns.values())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if display is metrics.RocCurveDisplay:
        axes.axline((0, 0), slope=1, color="grey", linestyle=":")
    return pd.concat(parts[1:] or parts)


def confusion(scored: Scored, axes: Axes) -> pd.DataFrame:
    classes = np.array(scored.schema.classes)
    table = pd.DataFrame({"actual": classes[codes(scored)], "predicted": classes[called(scored)]})
    look = {"values_format": ".0%", "xticks_rotation": 45, "cmap": "Blues", "colorbar": False}
    metrics.ConfusionMatrixDisplay.from_predictions(
        table["actual"], table["predicted"], normalize="true", ax=axes, **look
    )
    axes.set(xlabel="predicted", ylabel="actual")
    return table


def actual(scored: Scored, axes: Axes) -> pd.DataFrame:
    look = {"kind": "actual_vs_predicted", "subsample": POINTS, "random_state": 0}
    shown = metrics.PredictionErrorDisplay.from_predictions(
        scored.truth, scored.scores[:, 0], ax=axes, **look
    )
    return pd.DataFrame({"predicted": shown.y_pred, "actual": shown.y_true})


def histogram(scored: Scored, axes: Axes) -> pd.DataFrame:
    rows, edges = np.histogram(errors(scored), bins=60)
    axes.stairs(rows, edges, fill=True)
    axes.set(xlabel="error (predicted - actual)", ylabel="rows")
    return pd.DataFrame({"error": (edges[1:] + edges[:-1]) / 2, "rows": rows})


def coverage(scored: Scored, axes: Axes) -> pd.DataFrame:
    """Draw the share of truths in their interval, by what was predicted."""
    table = pd.DataFrame({"predicted": scored.scores[:, 0], "coverage": held(scored)})
    bins = pd.qcut(table["predicted"], scored.params.calibration_bins, duplicates="drop")
    rates = table.groupby(bins).mean()
    axes.plot(rates["predicted"], rates["coverage"], "o-")
    axes.axhline(scored.params.coverage, color="grey", linestyle=":")
    axes.set(xlabel="predicted", ylabel="share in the interval", ylim=(0, 1.02))
    return rates


roc = partial(curves, display=metrics.RocCurveDisplay)
precision_recall = partial(curves, display=metrics.PrecisionRecallDisplay)
calibration = partial(curves, display=CalibrationDisplay)
CLASSIFICATION: dict[str, Draw] = {
    "roc": partial(roc, fpr="false_positive_rate", tpr="true_positive_rate"),
    "precision_recall": partial(precision_recall, recall="recall", precision="precision"),
    "calibration": partial(calibration, prob_pred="predicted", prob_true="observed"),
    "confusion": confusion,
}
REGRESSION: dict[str, Draw] = {"actual": actual, "errors": histogram, "coverage": coverage}
