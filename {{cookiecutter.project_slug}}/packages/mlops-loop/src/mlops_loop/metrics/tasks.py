"""Tasks: one module for each kind of prediction; `of` gives the one that the contract names.

`scores` are the model's raw output: probabilities of shape (rows, classes) in the order of
`schema.classes`, or values of shape (rows, 1). `truth` is the target as the task takes it.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from mlops_loop.base.params import EvaluateParams as Params
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Task as Name
from mlops_loop.metrics import binary_classification, multiclass_classification, regression
from mlops_loop.metrics.values import (
    LoggedAnswer,
    Metrics,
    PlotOptions,
    Plots,
    Predictions,
    Scores,
    Truth,
    Weighted,
)
from mlops_loop.scoring.operating_point import OperatingPoint as Point


class Task(Protocol):
    """What the rest of the loop asks of a kind of prediction."""

    # What models are compared by, and whether more is better; the first one decides.
    GATE_METRICS: Mapping[str, bool]
    BASELINE_METRICS: Mapping[str, bool]  # in which a candidate must beat the naive baseline
    SLICE_LIMITS: Mapping[str, float]  # that `schema infer` writes into params.yaml
    SLICE_METRIC: str  # that a slice is held to, from `slice_quality`
    SLICE_GAP: str  # what `slice_gap` measures, in a few words
    MISCALIBRATION: str  # what `miscalibration` measures
    OBJECTIVE: str  # the metric that `tune` minimises, computed by `loss`
    PREDICTION_KIND: Literal["numerical", "categorical"]  # of column, for the monitor
    PLOTS: list[PlotOptions]  # what dvc.yaml plots
    ANSWER_TEXT: str  # a sentence for the model card

    def truth(self, table: pd.DataFrame, schema: Schema) -> Truth:
        """Return the target of each row."""

    def baseline(
        self, train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None
    ) -> Scores:
        """Return naive scores: what was usual in training, for each value of a column or at all."""

    def choose_operating_point(
        self, truth: Truth, scores: Scores, schema: Schema, params: Params
    ) -> Point:
        """Return what turns scores into answers."""

    def loss(self, truth: Truth, scores: Scores, schema: Schema) -> float:
        """Return the metric OBJECTIVE."""

    def measure(
        self, truth: Truth, scores: Scores, point: Point, schema: Schema, params: Params
    ) -> Metrics:
        """Return the metrics of scores."""

    def weighted_metrics(
        self, truth: Truth, scores: Scores, point: Point, schema: Schema
    ) -> Weighted:
        """Return the function that gives some of the metrics under weights, to be resampled."""

    def slice_quality(self, truth: Truth, scores: Scores, schema: Schema) -> Weighted | None:
        """Return the function that gives SLICE_METRIC; None where these rows cannot have one."""

    def slice_gap(self, whole: Metrics, part: pd.DataFrame) -> pd.Series:
        """Return how far each resample of a part is below the whole."""

    def slice_metrics(self, truth: Truth, scores: Scores, schema: Schema) -> Metrics | None:
        """Return the few metrics that reports show of a slice."""

    def miscalibration(
        self, truth: Truth, scores: Scores, point: Point, schema: Schema, params: Params
    ) -> float:
        """Return how far the model's promises are from what is observed."""

    def sample_labels(
        self,
        draws: np.random.Generator,
        scores: Scores,
        point: Point,
        schema: Schema,
        params: Params,
    ) -> Truth:
        """Return a truth for each row as if the model's promises were right."""

    def plots(
        self, truth: Truth, scores: Scores, point: Point, schema: Schema, params: Params
    ) -> Plots:
        """Return pictures, and the tables behind them."""

    def predictions(self, scores: Scores, schema: Schema) -> Predictions:
        """Return one value for each row, for the monitor."""

    def logged_prediction(self, output: LoggedAnswer, schema: Schema) -> float | str:
        """Return that value of an answer in the prediction log."""


TASKS: dict[Name, Task] = {
    "binary-classification": binary_classification,
    "multiclass-classification": multiclass_classification,
    "regression": regression,
}


def of(schema: Schema) -> Task:
    """Return the task that the contract names."""
    return TASKS[schema.task]


def deciding_metric(schema: Schema) -> tuple[str, bool]:
    """Return the metric by which models are compared, and whether more of it is better."""
    return next(iter(of(schema).GATE_METRICS.items()))
