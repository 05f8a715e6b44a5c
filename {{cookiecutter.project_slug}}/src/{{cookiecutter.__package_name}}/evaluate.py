"""Evaluate: score the model on the test window, against a naive baseline, overall and by slice."""

from base64 import b64encode
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.calibration import CalibrationDisplay, calibration_curve
from sklearn.metrics import roc_auc_score as roc_auc

from . import files, tracking
from .errors import Failure, run
from .files import METRICS, MODEL, REPORTS, SLICES, TEST, TRAIN, VALIDATION
from .model import load, positive_probability
from .params import load_params
from .schema import Schema, load_schema
from .settings import load_settings

PLOTS = REPORTS / "plots"


def measure(truth: np.ndarray, scores: np.ndarray, bins: int) -> dict[str, float]:
    """Return the metrics of probabilities `scores` for booleans `truth`, both of shape (rows,)."""
    observed, predicted = calibration_curve(truth, scores, n_bins=bins, strategy="quantile")
    return {
        "roc_auc": float(roc_auc(truth, scores)),
        "average_precision": float(metrics.average_precision_score(truth, scores)),
        "brier": float(metrics.brier_score_loss(truth, scores)),
        "log_loss": float(metrics.log_loss(truth, scores)),
        "calibration_error": float(np.abs(observed - predicted).mean()),  # over bins of equal size
        "positive_rate": float(truth.mean()),
        "rows": len(truth),
    }


def baseline(train: pd.DataFrame, test: pd.DataFrame, schema: Schema, by: str) -> np.ndarray:
    """Return naive probabilities: the training window's rate for each value of the column `by`."""
    if by not in train:
        raise Failure(f"params.yaml: evaluate.baseline_by: there is no column {by!r}")
    positive = pd.Series(schema.truth(train), index=train.index)
    rates = positive.groupby(train[by]).mean()
    return np.asarray(test[by].map(rates).fillna(positive.mean()), dtype=float)


def slices(
    test: pd.DataFrame, truth: np.ndarray, scores: np.ndarray, schema: Schema, minimum: int
) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    found = [
        (name, value, len(rows), truth[rows].mean(), scores[rows].mean(), roc_auc(truth[rows], scores[rows]))
        for name in (name for name, column in schema.columns.items() if column.slice)
        for value, rows in test.groupby(name).indices.items()
        if len(rows) >= minimum and len(set(truth[rows])) == 2
    ]
    names = ["column", "value", "rows", "positive_rate", "predicted_rate", "roc_auc"]
    return pd.DataFrame(found, columns=names)


def plot(
    truth: np.ndarray, scores: np.ndarray, threshold: float, positive: str, bins: int
) -> dict[str, tuple[Any, pd.DataFrame]]:
    """Return each plot as scikit-learn's display and as the table that DVC plots."""
    matplotlib.use("Agg")  # no screen
    common = {"name": "model", "plot_chance_level": True}
    roc = metrics.RocCurveDisplay.from_predictions(truth, scores, **common)
    recall = metrics.PrecisionRecallDisplay.from_predictions(truth, scores, **common)
    fit = CalibrationDisplay.from_predictions(truth, scores, n_bins=bins, strategy="quantile", name="model")
    actual, called = (np.where(yes, positive, f"not {positive}") for yes in (truth, scores >= threshold))
    confusion = metrics.ConfusionMatrixDisplay.from_predictions(
        actual, called, cmap="Blues", colorbar=False, values_format=","
    )
    return {
        "roc": (roc, thin(false_positive_rate=roc.fpr, true_positive_rate=roc.tpr)),
        "precision_recall": (recall, thin(recall=recall.recall, precision=recall.precision)),
        "calibration": (fit, thin(predicted=fit.prob_pred, observed=fit.prob_true)),
        "confusion": (confusion, pd.DataFrame({"actual": actual, "predicted": called})),
    }


def thin(**curve: np.ndarray) -> pd.DataFrame:
    """Return at most 300 evenly spread points of a curve: a plot shows no more."""
    table = pd.DataFrame(curve)
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, 300).round().astype(int))]


def main() -> None:
    schema, params = load_schema(), load_params().evaluate
    bins, model, test = params.calibration_bins, load(MODEL), files.read_table(TEST)
    validation = files.read_table(VALIDATION)
    truth, scores = schema.truth(test), positive_probability(model, test, schema)
    earlier = schema.truth(validation), positive_probability(model, validation, schema)
    naive = baseline(files.read_table(TRAIN), test, schema, params.baseline_by)
    precision, recall, thresholds = metrics.precision_recall_curve(*earlier)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    threshold = float(thresholds[np.argmax(f1[:-1])])  # from which on a row is called positive
    windows = {
        "test": measure(truth, scores, bins),
        "baseline": measure(truth, naive, bins),
        "validation": measure(*earlier, bins),
    }
    by_slice = slices(test, truth, scores, schema, params.min_slice_rows)
    plots = plot(truth, scores, threshold, schema.positive, bins)
    parts = [pd.DataFrame(windows).T.astype({"rows": int}).to_html(float_format="{:.4f}".format)]
    parts.append(by_slice.to_html(index=False, float_format="{:.3f}".format))
    with files.writing(PLOTS) as folder:
        folder.mkdir()
        for name, (display, table) in plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            display.figure_.savefig(folder / f"{name}.png", metadata={"Software": None})
            picture = b64encode((folder / f"{name}.png").read_bytes()).decode()
            parts.append(f'<img alt="{name}" src="data:image/png;base64,{picture}">')
    files.write_page(REPORTS / "evaluation.html", "Evaluation", *parts)
    files.write_text(SLICES, by_slice.to_csv(index=False))
    files.write_json(METRICS, windows | {"threshold": threshold})
    with tracking.session(load_settings()) as client:
        run_id = tracking.record_training(client)
        for name, value in tracking.flat(windows).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(PLOTS), "evaluation")
    found = "test ROC AUC {test[roc_auc]:.4f}, naive baseline {baseline[roc_auc]:.4f}"
    print(f"evaluate: {found.format(**windows)}")


if __name__ == "__main__":
    run(main)
