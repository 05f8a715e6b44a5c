"""Classification: probabilities of classes; in a binary one, a threshold for the positive class."""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import CalibrationDisplay, calibration_curve

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.roc_auc import weighted_area
from mlops_loop.metrics.values import (
    Floats,
    Metrics,
    Numbers,
    PlotOptions,
    Plots,
    Scored,
    Scores,
    Truth,
    Weighted,
    Weights,
    average,
    plot,
)
from mlops_loop.scoring.bundle import OperatingPoint

Pair = tuple[NDArray[np.bool_], Floats]  # which rows are of a class, and its probability
ROC = {"false_positive_rate": "fpr", "true_positive_rate": "tpr"}
CURVES = {  # scikit-learn's display, and which of its attributes are a column
    "roc": (metrics.RocCurveDisplay, ROC),
    "precision_recall": (
        metrics.PrecisionRecallDisplay,
        {"recall": "recall", "precision": "precision"},
    ),
    "calibration": (CalibrationDisplay, {"predicted": "prob_pred", "observed": "prob_true"}),
}


class MulticlassClassification:
    """A probability for each class; the likeliest is the answer."""

    # Not accuracy: where one class is common, always naming it is hard to beat.
    GATE_METRICS: ClassVar = {"log_loss": False, "macro_roc_auc": True}
    BASELINE_METRICS: ClassVar = GATE_METRICS
    OBJECTIVE = "log_loss"
    SLICE_METRIC = "macro_roc_auc"
    SLICE_LIMITS: ClassVar = {"floor": 0.5, "max_gap": 0.1}
    SLICE_GAP = "macro_roc_auc below the whole's"
    MISCALIBRATION = "calibration_error"
    PREDICTION_KIND: Literal["numerical", "categorical"] = "categorical"
    PLOTS: ClassVar[list[PlotOptions]] = [
        plot("ROC", "false_positive_rate", "true_positive_rate", "roc"),
        plot("Precision and recall", "recall", "precision", "precision_recall"),
        plot("Calibration", "predicted", "observed", "calibration"),
        plot("Confusion", "predicted", "actual", "confusion", "confusion"),
    ]
    ANSWER_TEXT = "It answers with a probability for each class, and names the likeliest."
    AVERAGE: Literal["binary", "macro"] = "macro"  # of the metrics of labels, over the classes
    PREFIX = "macro_"

    def truth(self, table: pd.DataFrame, schema: Schema) -> Truth:
        """Return the number of each row's class in `schema.classes`, shape (rows,)."""
        return np.asarray(pd.Categorical(table[schema.target], schema.classes).codes)

    def codes(self, scored: Scored) -> Numbers:
        """Return the number of each row's class, shape (rows,)."""
        return scored.truth.astype("int64")

    def called(self, scored: Scored) -> Numbers:
        """Return the number of the class that is the answer, shape (rows,)."""
        return np.asarray(scored.scores.argmax(axis=1))

    def predictions(self, scores: Scores, schema: Schema) -> NDArray[np.object_ | np.float64]:
        """Return the likeliest class, shape (rows,)."""
        return np.asarray(np.array(schema.classes, dtype=object)[scores.argmax(axis=1)])

    def pairs(self, scored: Scored) -> dict[str, Pair]:
        """Return for each class which rows are of it, and its probability."""
        codes = self.codes(scored)
        names = enumerate(scored.schema.classes)
        return {name: (codes == code, scored.scores[:, code]) for code, name in names}

    def area(self, scored: Scored) -> Callable[[Weights], float]:
        """Return the function that gives the mean ROC AUC of a class against the others.

        A class that all rows are of, or none by weight, is left out.
        """
        areas = [weighted_area(*pair) for pair in self.pairs(scored).values() if varies(pair)]

        def mean(weights: Weights) -> float:
            found = np.array([area(weights) for area in areas])
            found = found[~np.isnan(found)]
            return float(found.mean()) if len(found) else float("nan")

        return mean

    def row_metrics(self, scored: Scored) -> dict[str, Truth]:
        """Return the metrics that are means over the rows: of each row, shape (rows,)."""
        given = scored.scores[np.arange(len(scored.truth)), self.codes(scored)]
        losses = -np.log(np.clip(given, np.finfo(given.dtype).eps, 1))
        return {"log_loss": losses, "accuracy": self.called(scored) == self.codes(scored)}

    def weighted_metrics(self, scored: Scored) -> Weighted:
        area = self.area(scored)
        rows = self.row_metrics(scored)
        return lambda weights: {
            self.SLICE_METRIC: area(weights),
            **{name: average(values, weights) for name, values in rows.items()},
        }

    def other_metrics(self, scored: Scored) -> Metrics:
        """Return also precision, recall and F1 of the label that clients get."""
        schema = scored.schema
        found = metrics.precision_recall_fscore_support(
            self.codes(scored),
            self.called(scored),
            average=self.AVERAGE,
            pos_label=schema.classes.index(schema.positive) if schema.positive else 1,
            zero_division=0,
        )
        names = (f"{self.PREFIX}{name}" for name in ("precision", "recall", "f1"))
        of_labels = dict(zip(names, map(float, found[:3]), strict=True))
        return of_labels | {"calibration_error": self.miscalibration(scored)}

    def baseline(
        self, train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None
    ) -> Scores:
        """Return the training window's share of each class, for each value of `by` or at all.

        A value counts as if one row more of it had been seen, of the usual mixture: so that no
        share is zero because of a few rows.
        """
        usual = train[schema.target].value_counts(normalize=True).reindex(schema.classes).fillna(0)
        if by is None:
            return np.tile(usual.to_numpy(), (len(table), 1))
        counts = pd.crosstab(train[by], train[schema.target])
        counts = counts.reindex(columns=schema.classes, fill_value=0) + usual
        shares = counts.div(counts.sum(axis="columns"), axis="index")
        return np.asarray(shares.reindex(table[by]).fillna(usual))

    def choose_operating_point(self, scored: Scored) -> OperatingPoint:
        return OperatingPoint()

    def slice_gap(self, whole: Metrics, part: pd.DataFrame) -> pd.Series:
        return whole[self.SLICE_METRIC] - part[self.SLICE_METRIC]

    def slice_metrics(self, scored: Scored) -> Metrics | None:
        if len(set(scored.truth)) < 2:
            return None
        return self.weighted_metrics(scored)(np.ones(len(scored.truth)))

    def miscalibration(self, scored: Scored) -> float:
        """Return how far observed rates are from predicted ones: the mean over bins and classes."""
        bins = scored.params.calibration_bins
        curves = [
            calibration_curve(*pair, n_bins=bins, strategy="quantile")
            for pair in self.pairs(scored).values()
        ]
        return float(np.mean([np.abs(observed - given).mean() for observed, given in curves]))

    def sample_labels(self, draws: np.random.Generator, scored: Scored) -> Truth:
        upto = scored.scores.cumsum(axis=1)[:, :-1]
        return np.asarray((draws.random((len(upto), 1)) > upto).sum(axis=1))

    def plots(self, scored: Scored) -> Plots:
        from matplotlib.figure import Figure

        figures = {name: Figure(layout="tight") for name in (*CURVES, "confusion")}
        axes = {name: figure.subplots() for name, figure in figures.items()}
        classes = np.array(scored.schema.classes)
        actual = classes[self.codes(scored)]
        called = {"actual": actual, "predicted": classes[self.called(scored)]}
        shares = {"normalize": "true", "values_format": ".0%", "xticks_rotation": 45}
        metrics.ConfusionMatrixDisplay.from_predictions(
            *called.values(), **shares, cmap="Blues", colorbar=False, ax=axes["confusion"]
        )
        axes["confusion"].set(xlabel="predicted", ylabel="actual")
        tables = {"confusion": pd.DataFrame(called)}
        bins = {"n_bins": scored.params.calibration_bins, "strategy": "quantile"}
        pairs = {name: pair for name, pair in self.pairs(scored).items() if varies(pair)}
        for kind, (display, columns) in CURVES.items():
            parts = [pd.DataFrame(columns=list(columns))]
            options = bins if kind == "calibration" else {}
            for name, pair in pairs.items():
                shown = display.from_predictions(*pair, name=name, ax=axes[kind], **options)
                curve = {column: getattr(shown, name) for column, name in columns.items()}
                of = {} if scored.schema.positive else {"rev": name}  # what DVC groups by
                parts.append(thin(pd.DataFrame(curve)).assign(**of))
            xlabel, ylabel = (name.replace("_", " ") for name in columns)
            axes[kind].set(xlabel=xlabel, ylabel=ylabel)
            tables[kind] = pd.concat(parts[1:] or parts)
        axes["roc"].axline((0, 0), slope=1, color="grey", linestyle=":")
        return {name: (figure, tables[name]) for name, figure in figures.items()}


class BinaryClassification(MulticlassClassification):
    """The probability of the positive class, and a threshold for calling it."""

    GATE_METRICS: ClassVar = {"roc_auc": True}
    # Both: a model may order rows well, and promise worse than a constant does.
    BASELINE_METRICS: ClassVar = {"roc_auc": True, "log_loss": False}
    SLICE_METRIC = "roc_auc"
    SLICE_GAP = "roc_auc below the whole's"
    PREDICTION_KIND = "numerical"
    ANSWER_TEXT = (
        "It answers with a probability; a row is called `{schema.positive}` from "
        "{metrics[threshold]:.3f} on, the threshold of the best F1 score on the validation window."
    )
    AVERAGE = "binary"
    PREFIX = ""

    def truth(self, table: pd.DataFrame, schema: Schema) -> Truth:
        """Return whether each row is of the positive class: booleans, shape (rows,)."""
        return np.asarray(table[schema.target] == schema.positive)

    def codes(self, scored: Scored) -> Numbers:
        place = scored.schema.classes.index(str(scored.schema.positive))
        return np.where(scored.truth, place, 1 - place)

    def called(self, scored: Scored) -> Numbers:
        place = scored.schema.classes.index(str(scored.schema.positive))
        return np.where(scored.scores[:, place] >= scored.point.threshold, place, 1 - place)

    def predictions(self, scores: Scores, schema: Schema) -> Floats:
        """Return the probability of the positive class, shape (rows,)."""
        return scores[:, schema.classes.index(str(schema.positive))]

    def pairs(self, scored: Scored) -> dict[str, Pair]:
        name = str(scored.schema.positive)
        return {name: super().pairs(scored)[name]}

    def row_metrics(self, scored: Scored) -> dict[str, Truth]:
        squares = (self.predictions(scored.scores, scored.schema) - scored.truth) ** 2
        return {"log_loss": super().row_metrics(scored)["log_loss"], "brier": squares}

    def other_metrics(self, scored: Scored) -> Metrics:
        positive = self.predictions(scored.scores, scored.schema)
        return {
            "average_precision": float(metrics.average_precision_score(scored.truth, positive)),
            **super().other_metrics(scored),
            "positive_rate": float(scored.truth.mean()),
        }

    def choose_operating_point(self, scored: Scored) -> OperatingPoint:
        """Return the threshold with the best F1 score."""
        positive = self.predictions(scored.scores, scored.schema)
        precision, recall, thresholds = metrics.precision_recall_curve(scored.truth, positive)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return OperatingPoint(threshold=float(thresholds[np.argmax(f1[:-1])]))

    def slice_metrics(self, scored: Scored) -> Metrics | None:
        if (found := super().slice_metrics(scored)) is None:
            return None
        predicted = self.predictions(scored.scores, scored.schema)
        rates = {"positive_rate": scored.truth.mean(), "predicted_rate": predicted.mean()}
        return rates | {"roc_auc": found["roc_auc"]}

    def sample_labels(self, draws: np.random.Generator, scored: Scored) -> Truth:
        place = scored.schema.classes.index(str(scored.schema.positive))
        return np.asarray(super().sample_labels(draws, scored) == place)


def varies(pair: Pair) -> bool:
    """Return whether some rows are of the class, and some are not."""
    return bool(0 < pair[0].sum() < len(pair[0]))


def thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Return at most 300 evenly spread points of a curve: a plot shows no more."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 300).round().astype(int))]
