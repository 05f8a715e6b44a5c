"""Binary classification: the probability of the positive class, and a threshold for calling it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.calibration import CalibrationDisplay, calibration_curve

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.values import (
    Booleans,
    Floats,
    LoggedAnswer,
    Metrics,
    Names,
    Plots,
    Scores,
    Truth,
    Weighted,
    Weights,
    plot,
)
from mlops_loop.scoring.operating_point import OperatingPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATE_METRICS: Mapping[str, bool] = {"roc_auc": True}
# Both: a model may order rows well, and promise worse than a constant does.
BASELINE_METRICS: Mapping[str, bool] = {"roc_auc": True, "log_loss": False}
OF_LABELS = ("precision", "recall", "f1")  # of the label that clients get, at the threshold
SLICE_LIMITS: Mapping[str, float] = {"floor": 0.5, "max_gap": 0.1}  # of the ROC AUC
SLICE_METRIC = "roc_auc"
SLICE_GAP = "roc_auc below the whole's"
MISCALIBRATION = "calibration_error"
OBJECTIVE = "log_loss"
PREDICTION_KIND: Literal["numerical", "categorical"] = "numerical"
ROC = plot("ROC", "false_positive_rate", "true_positive_rate", "roc")
CALIBRATION = plot("Calibration", "predicted", "observed", "calibration")
CONFUSION = plot("Confusion", "predicted", "actual", "confusion", "confusion")
RECALL = plot("Precision and recall", "recall", "precision", "precision_recall")
PLOTS = [ROC, RECALL, CALIBRATION, CONFUSION]
ANSWER_TEXT = (
    "It answers with a probability; a row is called `{schema.positive}` from "
    "{metrics[threshold]:.3f} on, the threshold of the best F1 score on the validation window."
)


def truth(table: pd.DataFrame, schema: Schema) -> Truth:
    """Return whether each row is of the positive class: booleans, shape (rows,)."""
    return np.asarray(table[schema.target] == schema.positive)


def predictions(scores: Scores, schema: Schema) -> Floats:
    """Return the probability of the positive class, shape (rows,)."""
    return scores[:, schema.classes.index(str(schema.positive))]


def logged_prediction(output: LoggedAnswer, schema: Schema) -> float:
    return float(output["probabilities"][str(schema.positive)])


def baseline(train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None) -> Scores:
    """Return the training window's share of each class, for each value of `by` or at all.

    A value counts as if one row more of it had been seen, of the usual mixture: so that no share
    is zero because of a few rows.
    """
    usual = np.array([(train[schema.target] == name).mean() for name in schema.classes])
    if by is None:
        return np.tile(usual, (len(table), 1))
    counts = pd.crosstab(train[by], train[schema.target]).reindex(
        columns=schema.classes, fill_value=0
    )
    shares = counts.add(usual).div(counts.sum(axis="columns") + 1, axis="index")
    shares = shares.reindex(table[by]).fillna(dict(zip(schema.classes, usual, strict=True)))
    return np.asarray(shares)


def loss(truth: Truth, scores: Scores, schema: Schema) -> float:
    return float(metrics.log_loss(truth, predictions(scores, schema), labels=[False, True]))


def choose_operating_point(
    truth: Truth, scores: Scores, schema: Schema, params: EvaluateParams
) -> OperatingPoint:
    """Return the threshold with the best F1 score."""
    curve = metrics.precision_recall_curve(truth, predictions(scores, schema))
    precision, recall, thresholds = curve
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return OperatingPoint(threshold=float(thresholds[np.argmax(f1[:-1])]))


def measure(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Metrics:
    positive = predictions(scores, schema)
    called = positive >= point.threshold
    label = metrics.precision_recall_fscore_support(
        truth, called, average="binary", zero_division=0
    )
    return {
        "roc_auc": float(metrics.roc_auc_score(truth, positive)),
        "average_precision": float(metrics.average_precision_score(truth, positive)),
        "brier": float(metrics.brier_score_loss(truth, positive)),
        "log_loss": loss(truth, scores, schema),
        "calibration_error": calibration_error(truth, positive, params.calibration_bins),
        **dict(zip(OF_LABELS, map(float, label[:3]), strict=True)),
        "positive_rate": float(truth.mean()),
        "rows": len(truth),
    }


def weighted_metrics(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema
) -> Weighted:
    """Return the function that gives the metrics under weights of the rows, shape (rows,), >= 0."""
    positive = predictions(scores, schema)
    area = weighted_area(truth, positive)
    squares = (positive - truth) ** 2
    losses = surprise(truth, positive)

    def weighted(weights: Weights) -> Metrics:
        brier = average(squares, weights)
        loss = average(losses, weights)
        return {"roc_auc": area(weights), "brier": brier, "log_loss": loss}

    return weighted


def average(values: Floats | Booleans, weights: Weights) -> float:
    """Return the weighted mean: a NumPy number, so that dividing by a mean of 0 gives no error."""
    # Not `values @ weights`, whose last digits depend on the number of threads.
    mean: float = (values * weights).sum() / weights.sum()
    return mean


def surprise(truth: Truth, positive: Floats) -> Floats:
    """Return each row's part of the log loss, shape (rows,); probabilities are clipped."""
    given = np.where(truth, positive, 1 - positive)
    losses: Floats = -np.log(np.clip(given, np.finfo(given.dtype).eps, 1))
    return losses


def weighted_area(truth: Truth, positive: Floats) -> Callable[[Weights], float]:
    """Return the function that gives the ROC AUC under row weights; NaN without both classes.

    It is the share of pairs, of a row that is positive and one that is not, in which the former has
    the higher score; ties count half. All sorting is done here, once.
    """
    yes = np.flatnonzero(truth)
    no = np.flatnonzero(np.logical_not(truth))
    no = no[np.argsort(positive[no], kind="stable")]
    below, upto = (np.searchsorted(positive[no], positive[yes], side) for side in ("left", "right"))

    def area(weights: Weights) -> float:
        beaten = np.concatenate([[0.0], np.cumsum(weights[no])])
        if not beaten[-1] * weights[yes].sum():
            return float("nan")
        share: float = average((beaten[below] + beaten[upto]) / 2, weights[yes]) / beaten[-1]
        return share

    return area


def slice_quality(truth: Truth, scores: Scores, schema: Schema) -> Weighted | None:
    """Return the function of row weights that gives the ROC AUC; None for a single class."""
    if len(set(truth)) < 2:
        return None
    area = weighted_area(truth, predictions(scores, schema))
    return lambda weights: {SLICE_METRIC: area(weights)}


def slice_gap(whole: Metrics, part: pd.DataFrame) -> pd.Series:
    """Return how far the ROC AUC of a part is below that of the whole."""
    return whole[SLICE_METRIC] - part[SLICE_METRIC]


def miscalibration(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> float:
    return calibration_error(truth, predictions(scores, schema), params.calibration_bins)


def sample_labels(
    draws: np.random.Generator,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
) -> Booleans:
    """Return a truth for each row as if its probability were right, shape (rows,)."""
    drawn: Booleans = draws.random(len(scores)) < predictions(scores, schema)
    return drawn


def calibration_error(truth: Truth, positive: Floats, bins: int) -> float:
    """Return how far observed rates are from predicted ones, on average over bins of equal size."""
    observed, predicted = calibration_curve(truth, positive, n_bins=bins, strategy="quantile")
    return float(np.abs(observed - predicted).mean())


def slice_metrics(truth: Truth, scores: Scores, schema: Schema) -> Metrics | None:
    """Return the metrics of one slice, or None if it holds one class only."""
    if len(set(truth)) < 2:
        return None
    positive = predictions(scores, schema)
    area = float(metrics.roc_auc_score(truth, positive))
    return {"positive_rate": truth.mean(), "predicted_rate": positive.mean(), "roc_auc": area}


def plots(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema, params: EvaluateParams
) -> Plots:
    positive = predictions(scores, schema)
    name = str(schema.positive)
    common = {"name": "model", "plot_chance_level": True}
    roc = metrics.RocCurveDisplay.from_predictions(truth, positive, **common)
    recall = metrics.PrecisionRecallDisplay.from_predictions(truth, positive, **common)
    fit = CalibrationDisplay.from_predictions(
        truth, positive, n_bins=params.calibration_bins, strategy="quantile", name="model"
    )
    other = next(each for each in schema.classes if each != name)
    actual = np.where(truth, name, other)
    called = np.where(positive >= point.threshold, name, other)
    roc.ax_.set(xlabel="false positive rate", ylabel=f"share of {name} that is found")
    recall.ax_.set(xlabel=f"recall of {name}", ylabel=f"precision of {name}")
    fit.ax_.set(xlabel=f"predicted P({name})", ylabel=f"observed share of {name}")
    return {
        "roc": (roc.figure_, thin(false_positive_rate=roc.fpr, true_positive_rate=roc.tpr)),
        "precision_recall": (
            recall.figure_,
            thin(recall=recall.recall, precision=recall.precision),
        ),
        "calibration": (fit.figure_, thin(predicted=fit.prob_pred, observed=fit.prob_true)),
        "confusion": confusion(actual, called),
    }


def confusion(actual: Names, called: Names, rotation: int = 0) -> tuple["Figure", pd.DataFrame]:
    """Return the confusion matrix as a figure, and the classes that it counts."""
    shown = metrics.ConfusionMatrixDisplay.from_predictions(
        actual,
        called,
        cmap="Blues",
        colorbar=False,
        values_format=",",
        xticks_rotation=rotation,
    )
    counts = shown.confusion_matrix
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for place, text in np.ndenumerate(shown.text_):
        text.set_text(f"{counts[place]:,}\n{shares[place]:.0%} of the row")
    shown.ax_.set(xlabel="predicted", ylabel="actual")
    return shown.figure_, pd.DataFrame({"actual": actual, "predicted": called})


def thin(**curve: Floats) -> pd.DataFrame:
    """Return at most 300 evenly spread points of a curve: a plot shows no more."""
    table = pd.DataFrame(curve)
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, 300).round().astype(int))]
