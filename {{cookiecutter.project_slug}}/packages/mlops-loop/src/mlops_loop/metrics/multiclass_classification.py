"""Multiclass classification: a probability for each class; the likeliest is the answer."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.binary_classification import (
    CALIBRATION,
    CONFUSION,
    OF_LABELS,
    ROC,
    average,
    calibration_error,
    confusion,
    surprise,
    thin,
    weighted_area,
)
from mlops_loop.metrics.binary_classification import MISCALIBRATION as MISCALIBRATION
from mlops_loop.metrics.binary_classification import OBJECTIVE as OBJECTIVE
from mlops_loop.metrics.binary_classification import baseline as baseline
from mlops_loop.metrics.values import (
    Booleans,
    Floats,
    LoggedAnswer,
    Metrics,
    Plots,
    Scores,
    Truth,
    Weighted,
    Weights,
)
from mlops_loop.scoring.operating_point import OperatingPoint

# Not accuracy: where one class is common, always naming it is hard to beat.
GATE_METRICS: Mapping[str, bool] = {"log_loss": False, "macro_roc_auc": True}
BASELINE_METRICS: Mapping[str, bool] = GATE_METRICS
SLICE_LIMITS: Mapping[str, float] = {"floor": 0.5, "max_gap": 0.1}  # of the mean ROC AUC
SLICE_METRIC = "macro_roc_auc"
SLICE_GAP = "macro_roc_auc below the whole's"
PREDICTION_KIND: Literal["numerical", "categorical"] = "categorical"
PLOTS = [ROC, CALIBRATION, CONFUSION]
ANSWER_TEXT = "It answers with a probability for each class, and names the likeliest."


def truth(table: pd.DataFrame, schema: Schema) -> Truth:
    """Return the number of each row's class in `schema.classes`, shape (rows,)."""
    return np.asarray(pd.Categorical(table[schema.target], schema.classes).codes)


def predictions(scores: Scores, schema: Schema) -> NDArray[np.object_]:
    """Return the likeliest class, shape (rows,)."""
    likeliest: NDArray[np.object_] = np.array(schema.classes, dtype=object)[scores.argmax(axis=1)]
    return likeliest


def logged_prediction(output: LoggedAnswer, schema: Schema) -> str:
    return str(output["label"])


def loss(truth: Truth, scores: Scores, schema: Schema) -> float:
    return float(metrics.log_loss(truth, scores, labels=range(len(schema.classes))))


def choose_operating_point(
    truth: Truth, scores: Scores, schema: Schema, params: EvaluateParams
) -> OperatingPoint:
    return OperatingPoint()


def one_by_one(truth: Truth, scores: Scores) -> list[tuple[Booleans, Floats]]:
    """Return (is it this class, its probability) for each class that some rows lack."""
    pairs = [(truth == number, scores[:, number]) for number in range(scores.shape[1])]
    return [pair for pair in pairs if 0 < pair[0].sum() < len(truth)]


def macro_roc_auc(truth: Truth, scores: Scores) -> float:
    """Return the mean over the classes of the ROC AUC of one class against the others."""
    return float(np.mean([metrics.roc_auc_score(*pair) for pair in one_by_one(truth, scores)]))


def measure(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Metrics:
    called = scores.argmax(axis=1)
    label = metrics.precision_recall_fscore_support(truth, called, average="macro", zero_division=0)
    return {
        "log_loss": loss(truth, scores, schema),
        "macro_roc_auc": macro_roc_auc(truth, scores),
        "accuracy": float(metrics.accuracy_score(truth, called)),
        **{f"macro_{name}": float(value) for name, value in zip(OF_LABELS, label, strict=False)},
        "calibration_error": miscalibration(truth, scores, point, schema, params),
        "rows": len(truth),
    }


def weighted_metrics(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema
) -> Weighted:
    """Return the function that gives the metrics under weights of the rows, shape (rows,), >= 0."""
    losses = surprise(np.ones(len(truth), dtype=bool), scores[np.arange(len(truth)), truth])
    areas = weighted_areas(truth, scores)
    right = scores.argmax(axis=1) == truth

    def weighted(weights: Weights) -> Metrics:
        loss = average(losses, weights)
        accuracy = average(right, weights)
        return {"log_loss": loss, "macro_roc_auc": areas(weights), "accuracy": accuracy}

    return weighted


def weighted_areas(truth: Truth, scores: Scores) -> Callable[[Weights], float]:
    """Return the function that gives `macro_roc_auc` under weights of the rows.

    A class that has no weight is left out, as it is without a row.
    """
    areas = [weighted_area(*pair) for pair in one_by_one(truth, scores)]

    def mean(weights: Weights) -> float:
        found = np.array([area(weights) for area in areas])
        found = found[~np.isnan(found)]
        return float(found.mean()) if len(found) else float("nan")

    return mean


def slice_quality(truth: Truth, scores: Scores, schema: Schema) -> Weighted | None:
    """Return the function of row weights that gives `macro_roc_auc`; None for a single class."""
    if len(set(truth)) < 2:
        return None
    areas = weighted_areas(truth, scores)
    return lambda weights: {SLICE_METRIC: areas(weights)}


def slice_gap(whole: Metrics, part: pd.DataFrame) -> pd.Series:
    """Return how far the mean ROC AUC of a part is below that of the whole."""
    return whole[SLICE_METRIC] - part[SLICE_METRIC]


def miscalibration(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> float:
    """Return the mean over the classes of the calibration error of one class against the others."""
    pairs = [(truth == number, scores[:, number]) for number in range(scores.shape[1])]
    return float(np.mean([calibration_error(*pair, params.calibration_bins) for pair in pairs]))


def sample_labels(
    draws: np.random.Generator,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
) -> NDArray[np.int64]:
    """Return a class number for each row as if its probabilities were right, shape (rows,)."""
    upto = scores.cumsum(axis=1)[:, :-1]
    drawn: NDArray[np.int64] = (draws.random((len(scores), 1)) > upto).sum(axis=1)
    return drawn


def slice_metrics(truth: Truth, scores: Scores, schema: Schema) -> Metrics | None:
    """Return the metrics of one slice, or None if it holds one class only."""
    if len(set(truth)) < 2:
        return None
    area = macro_roc_auc(truth, scores)
    right = float((scores.argmax(axis=1) == truth).mean())
    return {"accuracy": right, "log_loss": loss(truth, scores, schema), "macro_roc_auc": area}


def plots(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Plots:
    from matplotlib.figure import Figure

    names = np.array(schema.classes, dtype=object)
    roc = Figure(layout="tight")
    fit = Figure(layout="tight")
    axes = (roc.subplots(), fit.subplots())
    curves: list[pd.DataFrame] = []
    fits: list[pd.DataFrame] = []
    for number, name in enumerate(names):
        is_it = truth == number
        probability = scores[:, number]
        if not 0 < is_it.sum() < len(truth):
            continue
        area = metrics.RocCurveDisplay.from_predictions(
            is_it, probability, name=str(name), ax=axes[0]
        )
        curves.append(
            thin(false_positive_rate=area.fpr, true_positive_rate=area.tpr).assign(rev=name)
        )
        bins = pd.qcut(probability, params.calibration_bins, duplicates="drop")
        means = pd.DataFrame({"predicted": probability, "observed": is_it}).groupby(bins).mean()
        axes[1].plot(means["predicted"], means["observed"], marker="o", label=str(name))
        fits.append(means.reset_index(drop=True).assign(rev=name))
    for axis in axes:
        axis.axline((0, 0), slope=1, color="grey", linestyle=":")
    axes[1].set(xlabel="predicted probability", ylabel="observed share")
    axes[1].legend()
    actual = names[truth]
    called = predictions(scores, schema)
    return {
        "roc": (roc, pd.concat(curves)),
        "calibration": (fit, pd.concat(fits)),
        "confusion": confusion(actual, called, rotation=45),
    }
