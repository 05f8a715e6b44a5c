"""Regression: a value, and an interval around it that holds the truth as often as was asked for."""

from typing import ClassVar

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.values import (
    Floats,
    Measure,
    Metrics,
    Scored,
    Scores,
    Task,
    average,
    mean,
)
from mlops_loop.scoring.bundle import OperatingPoint


def errors(scored: Scored) -> Floats:
    return scored.scores[:, 0] - scored.truth


def sizes(scored: Scored) -> Floats:
    return np.abs(errors(scored))


def held(scored: Scored) -> Floats:
    """Return 1 for each row whose truth is in its interval, else 0."""
    return (sizes(scored) <= scored.point.half_width).astype(float)


def d2(scored: Scored) -> Measure:
    """1 - mean absolute error / that of always answering with these rows' median.

    1 is perfect, 0 is no better than the median. Source: Koenker and Machado, Goodness of fit and
    related inference processes for quantile regression, JASA 1999.
    """
    found = sizes(scored)
    usual = np.abs(scored.truth - np.median(scored.truth))
    return lambda weights: float(1 - average(found, weights) / (average(usual, weights) or np.nan))


def rmse(scored: Scored) -> Measure:
    squares = errors(scored) ** 2
    return lambda weights: float(np.sqrt(average(squares, weights)))


class Regression(Task):
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
    RESAMPLED: ClassVar = {
        "mae": mean(sizes),
        "d2": d2,
        "rmse": rmse,
        "bias": mean(errors),
        "coverage": mean(held),
    }
    OTHERS: ClassVar = {
        "r2": lambda scored: r2_score(scored.truth, scored.scores[:, 0]),
        "interval_width": lambda scored: 2 * scored.point.half_width,
    }

    def truth(self, table: pd.DataFrame, schema: Schema) -> Floats:
        """Return the target, shape (rows,)."""
        return np.asarray(table[schema.target], dtype=float)

    def predictions(self, scores: Scores, schema: Schema) -> Floats:
        """Return one value for each row, for the monitor, shape (rows,)."""
        return scores[:, 0]

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

        Source: Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018,
        algorithm 2.
        """
        found = np.sort(sizes(scored))
        rank = int(np.ceil((len(found) + 1) * scored.params.coverage))
        return OperatingPoint(half_width=float(found[min(rank, len(found)) - 1]))

    def slice_gap(self, whole: Metrics, part: pd.DataFrame) -> pd.Series:
        """Return by which share the mean absolute error of a part is larger than the whole's."""
        return part["mae"] / max(whole["mae"], 1e-30) - 1

    def miscalibration(self, scored: Scored) -> float:
        """Return how far the share of truths in the intervals is from the one asked for."""
        return float(abs(held(scored).mean() - scored.params.coverage))

    def sample_labels(self, draws: np.random.Generator, scored: Scored) -> Floats:
        """Return truths, shape (rows,), each in its interval with the coverage asked for."""
        outside = draws.random(len(scored.scores)) >= scored.params.coverage
        return scored.scores[:, 0] + outside * (2 * scored.point.half_width + 1)
