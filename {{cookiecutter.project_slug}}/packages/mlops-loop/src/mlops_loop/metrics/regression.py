"""Regression: a value, and an interval around it that holds the truth as often as was asked for."""

from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from sklearn import metrics

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.values import (
    Floats,
    Metrics,
    PlotOptions,
    Plots,
    Scored,
    Scores,
    Weighted,
    Weights,
    average,
    plot,
)
from mlops_loop.scoring.bundle import OperatingPoint

SHOWN = 2000  # points in a plot


class Regression:
    """Its constants and methods are those of every task."""

    # What models are compared by, and whether more is better; the first one decides.
    GATE_METRICS: ClassVar = {"mae": False}
    BASELINE_METRICS: ClassVar = GATE_METRICS  # in which a candidate must beat the naive baseline
    OBJECTIVE = "mae"  # what `tune` minimises
    SLICE_METRIC = "d2"  # that a slice is held to
    # What `schema infer` writes into params.yaml: of SLICE_METRIC, and of `slice_gap`.
    SLICE_LIMITS: ClassVar = {"floor": 0, "max_gap": 1.0}
    SLICE_GAP = "mae above the whole's, as a share"
    MISCALIBRATION = "coverage, difference from what was asked"
    PREDICTION_KIND: Literal["numerical", "categorical"] = "numerical"  # in the monitor
    PLOTS: ClassVar[list[PlotOptions]] = [  # in dvc.yaml
        plot("Actual and predicted", "predicted", "actual", "actual", "scatter"),
        plot("Errors", "error", "rows", "errors"),
        plot("Coverage of the intervals", "predicted", "coverage", "coverage"),
    ]
    ANSWER_TEXT = (  # in the model card
        "It answers with a value and an interval of {metrics[half_width]:.4g} on either side of "
        "it, made to hold {params.evaluate.coverage:.0%} of the truths; on the test window it held "
        "{metrics[test][coverage]:.1%}."
    )

    def truth(self, table: pd.DataFrame, schema: Schema) -> Floats:
        """Return the target, shape (rows,)."""
        return np.asarray(table[schema.target], dtype=float)

    def predictions(self, scores: Scores, schema: Schema) -> Floats:
        """Return one value for each row, for the monitor, shape (rows,)."""
        return scores[:, 0]

    def errors(self, scored: Scored) -> Floats:
        return scored.scores[:, 0] - scored.truth

    def baseline(
        self, train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None
    ) -> Scores:
        """Return the training window's median, for each value of the column `by` or at all."""
        usual = float(train[schema.target].median())
        if by is None:
            return np.full((len(table), 1), usual)
        medians = train.groupby(by)[schema.target].median()
        return np.asarray(table[by].map(medians).fillna(usual), dtype=float).reshape(-1, 1)

    def choose_operating_point(self, scored: Scored) -> OperatingPoint:
        """Return half the interval's width, by split conformal prediction.

        That is the quantile of the absolute errors on rows that the model has not seen, with the
        correction for their number. Source: Lei et al., Distribution-Free Predictive Inference for
        Regression, JASA 2018, algorithm 2.
        """
        errors = np.sort(np.abs(self.errors(scored)))
        rank = int(np.ceil((len(errors) + 1) * scored.params.coverage))
        return OperatingPoint(half_width=float(errors[min(rank, len(errors)) - 1]))

    def weighted_metrics(self, scored: Scored) -> Weighted:
        """Return the function that gives metrics under weights of the rows, to be resampled.

        D2 = 1 - mean absolute error / that of always answering with these rows' median: 1 is
        perfect, 0 is no better than the median. Source: Koenker and Machado, Goodness of fit and
        related inference processes for quantile regression, JASA 1999.
        """
        errors = self.errors(scored)
        sizes = np.abs(errors)
        usual = np.abs(scored.truth - np.median(scored.truth))

        def weighted(weights: Weights) -> Metrics:
            mae = average(sizes, weights)
            return {
                "mae": mae,
                "d2": float(1 - mae / (average(usual, weights) or np.nan)),
                "rmse": float(np.sqrt(average(errors**2, weights))),
                "bias": average(errors, weights),
                "coverage": average(sizes <= scored.point.half_width, weights),
            }

        return weighted

    def other_metrics(self, scored: Scored) -> Metrics:
        """Return the metrics that are not resampled."""
        r2 = float(metrics.r2_score(scored.truth, scored.scores[:, 0]))
        return {"r2": r2, "interval_width": 2 * scored.point.half_width}

    def slice_gap(self, whole: Metrics, part: pd.DataFrame) -> pd.Series:
        """Return by which share the mean absolute error of a part is larger than the whole's."""
        return part["mae"] / max(whole["mae"], 1e-30) - 1

    def slice_metrics(self, scored: Scored) -> Metrics | None:
        """Return the few metrics that reports show of a slice; None where it has none."""
        errors = self.errors(scored)
        return {"mean": scored.truth.mean(), "mae": np.abs(errors).mean(), "bias": errors.mean()}

    def miscalibration(self, scored: Scored) -> float:
        """Return how far the share of truths in the intervals is from the one asked for."""
        held = np.abs(self.errors(scored)) <= scored.point.half_width
        return float(abs(held.mean() - scored.params.coverage))

    def sample_labels(self, draws: np.random.Generator, scored: Scored) -> Floats:
        """Return truths, shape (rows,), each in its interval with the coverage asked for."""
        outside = draws.random(len(scored.scores)) >= scored.params.coverage
        return scored.scores[:, 0] + outside * (2 * scored.point.half_width + 1)

    def plots(self, scored: Scored) -> Plots:
        from matplotlib.figure import Figure

        target = scored.schema.target
        table = pd.DataFrame({"predicted": scored.scores[:, 0], "actual": scored.truth})
        table["error"] = self.errors(scored)
        table["coverage"] = table["error"].abs() <= scored.point.half_width
        rows, edges = np.histogram(table["error"], bins=60)
        errors = pd.DataFrame({"error": (edges[1:] + edges[:-1]) / 2, "rows": rows})
        some = table[["predicted", "actual"]].sample(min(SHOWN, len(table)), random_state=0)
        bins = pd.qcut(table["predicted"], scored.params.calibration_bins, duplicates="drop")
        coverage = table.groupby(bins)[["predicted", "coverage"]].mean().reset_index(drop=True)

        figures = [Figure(layout="tight") for _ in range(3)]
        actual, histogram, covered = (figure.subplots() for figure in figures)
        actual.plot(*some.to_numpy().T, ".", alpha=0.4)
        actual.axline((scored.truth[0], scored.truth[0]), slope=1, color="grey", linestyle=":")
        actual.set(xlabel=f"predicted {target}", ylabel=f"actual {target}")
        histogram.stairs(rows, edges, fill=True)
        histogram.set(xlabel="error (predicted - actual)", ylabel="rows")
        covered.plot(*coverage.to_numpy().T, "o-")
        covered.axhline(scored.params.coverage, color="grey", linestyle=":")
        covered.set(xlabel=f"predicted {target}", ylabel="share in the interval", ylim=(0, 1.02))
        return {
            "actual": (figures[0], some),
            "errors": (figures[1], errors),
            "coverage": (figures[2], coverage),
        }
