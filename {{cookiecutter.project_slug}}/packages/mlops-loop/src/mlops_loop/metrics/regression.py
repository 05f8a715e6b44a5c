"""Regression: a value, and an interval around it that holds the truth as often as was asked for."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.binary_classification import average
from mlops_loop.metrics.values import (
    Floats,
    LoggedAnswer,
    Metrics,
    Plots,
    Scores,
    Truth,
    Weighted,
    Weights,
    plot,
)
from mlops_loop.scoring.operating_point import OperatingPoint

GATE_METRICS: Mapping[str, bool] = {"mae": False}
BASELINE_METRICS: Mapping[str, bool] = GATE_METRICS
SLICE_LIMITS: Mapping[str, float] = {
    "floor": 0,
    "max_gap": 1.0,
}  # of the D2 score; of the error, as a share of the whole's
SLICE_METRIC = "d2"
SLICE_GAP = "mae above the whole's, as a share"
MISCALIBRATION = "coverage, difference from what was asked"
OBJECTIVE = "mae"
PREDICTION_KIND: Literal["numerical", "categorical"] = "numerical"
PLOTS = [
    plot("Actual and predicted", "predicted", "actual", "actual", "scatter"),
    plot("Errors", "error", "rows", "errors"),
    plot("Coverage of the intervals", "predicted", "coverage", "coverage"),
]
ANSWER_TEXT = (
    "It answers with a value and an interval of {metrics[half_width]:.4g} on either side of it, "
    "made to hold {params.evaluate.coverage:.0%} of the truths; on the test window it held "
    "{metrics[test][coverage]:.1%}."
)
SHOWN = 2000  # points in a plot


def truth(table: pd.DataFrame, schema: Schema) -> Truth:
    """Return the target as floats, shape (rows,)."""
    return np.asarray(table[schema.target], dtype=float)


def predictions(scores: Scores, schema: Schema) -> Floats:
    """Return the predicted values, shape (rows,)."""
    return scores[:, 0]


def logged_prediction(output: LoggedAnswer, schema: Schema) -> float:
    return float(output["value"])


def baseline(train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None) -> Scores:
    """Return the training window's median, for each value of the column `by` or at all."""
    usual = float(train[schema.target].median())
    if by is None:
        return np.full((len(table), 1), usual)
    medians = train.groupby(by)[schema.target].median()
    return np.asarray(table[by].map(medians).fillna(usual), dtype=float).reshape(-1, 1)


def loss(truth: Truth, scores: Scores, schema: Schema) -> float:
    return float(metrics.mean_absolute_error(truth, scores[:, 0]))


def choose_operating_point(
    truth: Truth, scores: Scores, schema: Schema, params: EvaluateParams
) -> OperatingPoint:
    """Return half the interval's width, by split conformal prediction.

    That is the quantile of the absolute errors on rows that the model has not seen, with the
    correction for their number. Source: Lei et al., Distribution-Free Predictive Inference for
    Regression, JASA 2018, algorithm 2.
    """
    errors = np.sort(np.abs(truth - scores[:, 0]))
    rank = int(np.ceil((len(errors) + 1) * params.coverage))
    return OperatingPoint(half_width=float(errors[min(rank, len(errors)) - 1]))


def measure(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Metrics:
    errors = scores[:, 0] - truth
    return {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "r2": float(metrics.r2_score(truth, scores[:, 0])),
        "bias": float(errors.mean()),
        "coverage": float((np.abs(errors) <= point.half_width).mean()),
        "interval_width": 2 * point.half_width,
        "rows": len(truth),
    }


def weighted_metrics(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema
) -> Weighted:
    """Return the function that gives the metrics under weights of the rows, shape (rows,), >= 0."""
    errors = scores[:, 0] - truth
    sizes = np.abs(errors)
    held = np.abs(errors) <= point.half_width

    def weighted(weights: Weights) -> Metrics:
        mae = average(sizes, weights)
        rmse = float(np.sqrt(average(errors**2, weights)))
        return {
            "mae": mae,
            "rmse": rmse,
            "bias": average(errors, weights),
            "coverage": average(held, weights),
        }

    return weighted


def slice_quality(truth: Truth, scores: Scores, schema: Schema) -> Weighted | None:
    """Return the function of row weights that gives D2 score and mean absolute error.

    D2 = 1 - mean absolute error / that of always answering with these rows' median: 1 is perfect, 0
    is no better than the median. None if the target does not vary. Source: Koenker and Machado,
    Goodness of fit and related inference processes for quantile regression, JASA 1999.
    """
    errors = np.abs(scores[:, 0] - truth)
    usual = np.abs(truth - np.median(truth))
    if not usual.any():
        return None

    def weighted(weights: Weights) -> Metrics:
        mae = average(errors, weights)
        return {SLICE_METRIC: 1 - mae / average(usual, weights), "mae": mae}

    return weighted


def slice_gap(whole: Metrics, part: pd.DataFrame) -> pd.Series:
    """Return by which share the mean absolute error of a part is larger than that of the whole."""
    return part["mae"] / max(whole["mae"], 1e-30) - 1


def miscalibration(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> float:
    """Return how far the share of truths in the intervals is from the one that was asked for."""
    held = np.abs(truth - scores[:, 0]) <= point.half_width
    return float(abs(held.mean() - params.coverage))


def sample_labels(
    draws: np.random.Generator,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
) -> Floats:
    """Return truths, shape (rows,), each in its interval with the coverage asked for."""
    outside = draws.random(len(scores)) >= params.coverage
    return scores[:, 0] + outside * (2 * point.half_width + 1)


def slice_metrics(truth: Truth, scores: Scores, schema: Schema) -> Metrics | None:
    errors = scores[:, 0] - truth
    return {"mean": truth.mean(), "mae": np.abs(errors).mean(), "bias": errors.mean()}


def plots(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Plots:
    from matplotlib.figure import Figure

    table = pd.DataFrame({"predicted": scores[:, 0], "actual": truth})
    table["error"] = table["predicted"] - table["actual"]
    held = (table["error"].abs() <= point.half_width).rename("coverage")
    some = table.sample(min(SHOWN, len(table)), random_state=0)[["predicted", "actual"]]
    rows, edges = np.histogram(table["error"], bins=60)
    errors = pd.DataFrame({"error": (edges[1:] + edges[:-1]) / 2, "rows": rows})
    bins = pd.qcut(table["predicted"], params.calibration_bins, duplicates="drop")
    coverage = table[["predicted"]].join(held).groupby(bins).mean().reset_index(drop=True)

    figures = [Figure(layout="tight") for _ in range(3)]
    actual, histogram, covered = (figure.subplots() for figure in figures)
    actual.scatter(some["predicted"], some["actual"], s=6, alpha=0.4)
    actual.axline((truth.mean(), truth.mean()), slope=1, color="grey", linestyle=":")
    actual.set(xlabel=f"predicted {schema.target}", ylabel=f"actual {schema.target}")
    histogram.stairs(rows, edges, fill=True)
    histogram.set(xlabel="error (predicted - actual)", ylabel="rows")
    covered.plot(coverage["predicted"], coverage["coverage"], marker="o")
    covered.axhline(params.coverage, color="grey", linestyle=":")
    covered.set(
        xlabel=f"predicted {schema.target}",
        ylabel="share of truths in the interval",
        ylim=(0, 1.02),
    )
    tables = {"actual": some, "errors": errors, "coverage": coverage}
    return {
        name: (figure, table) for figure, (name, table) in zip(figures, tables.items(), strict=True)
    }
