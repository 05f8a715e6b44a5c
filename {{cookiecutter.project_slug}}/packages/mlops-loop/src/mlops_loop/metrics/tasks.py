"""Tasks: one module for each kind of prediction; `of` gives the one that the contract names.

`scores` are the model's raw output: probabilities of shape (rows, classes) in the order of
`schema.classes`, or values of shape (rows, 1). `truth` is the target as the task takes it.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from mlops_loop.base.params.evaluate import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.task import Task as Name
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
from mlops_loop.scoring.operating_point import OperatingPoint


class Task(Protocol):
    """What the rest of the loop asks of a kind of prediction."""

    @property
    def GATE_METRICS(self) -> Mapping[str, bool]:  # noqa: N802
        """What models are compared by, and whether more is better; the first one decides."""

    @property
    def BASELINE_METRICS(self) -> Mapping[str, bool]:  # noqa: N802
        """The metrics in which a candidate must beat the naive baseline, likewise."""

    @property
    def SLICE_LIMITS(self) -> Mapping[str, float]:  # noqa: N802
        """The limits of slices that `schema infer` writes into params.yaml."""

    @property
    def SLICE_METRIC(self) -> str:  # noqa: N802
        """The metric that a slice is held to, from `slice_quality`."""

    @property
    def SLICE_GAP(self) -> str:  # noqa: N802
        """What `slice_gap` measures, in a few words."""

    @property
    def MISCALIBRATION(self) -> str:  # noqa: N802
        """What `miscalibration` measures."""

    @property
    def OBJECTIVE(self) -> str:  # noqa: N802
        """The metric that `tune` minimises, computed by `loss`."""

    @property
    def PREDICTION_KIND(self) -> Literal["numerical", "categorical"]:  # noqa: N802
        """What kind of column the monitor sees in `predictions`."""

    @property
    def PLOTS(self) -> list[PlotOptions]:  # noqa: N802
        """What dvc.yaml plots."""

    @property
    def ANSWER_TEXT(self) -> str:  # noqa: N802
        """A sentence for the model card."""

    def truth(self, table: pd.DataFrame, schema: Schema) -> Truth:
        """Return the target of each row."""

    def baseline(
        self, train: pd.DataFrame, table: pd.DataFrame, schema: Schema, by: str | None
    ) -> Scores:
        """Return naive scores: what was usual in training, for each value of a column or at all."""

    def choose_operating_point(
        self, truth: Truth, scores: Scores, schema: Schema, params: EvaluateParams
    ) -> OperatingPoint:
        """Return what turns scores into answers."""

    def loss(self, truth: Truth, scores: Scores, schema: Schema) -> float:
        """Return the metric OBJECTIVE."""

    def measure(
        self,
        truth: Truth,
        scores: Scores,
        point: OperatingPoint,
        schema: Schema,
        params: EvaluateParams,
    ) -> Metrics:
        """Return the metrics of scores."""

    def weighted_metrics(
        self, truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema
    ) -> Weighted:
        """Return the function that gives some of the metrics under weights, to be resampled."""

    def slice_quality(self, truth: Truth, scores: Scores, schema: Schema) -> Weighted | None:
        """Return the function that gives SLICE_METRIC; None where these rows cannot have one."""

    def slice_gap(self, whole: Metrics, part: pd.DataFrame) -> pd.Series:
        """Return how far each resample of a part is below the whole."""

    def slice_metrics(self, truth: Truth, scores: Scores, schema: Schema) -> Metrics | None:
        """Return the few metrics that reports show of a slice."""

    def miscalibration(
        self,
        truth: Truth,
        scores: Scores,
        point: OperatingPoint,
        schema: Schema,
        params: EvaluateParams,
    ) -> float:
        """Return how far the model's promises are from what is observed."""

    def sample_labels(
        self,
        draws: np.random.Generator,
        scores: Scores,
        point: OperatingPoint,
        schema: Schema,
        params: EvaluateParams,
    ) -> Truth:
        """Return a truth for each row as if the model's promises were right."""

    def plots(
        self,
        truth: Truth,
        scores: Scores,
        point: OperatingPoint,
        schema: Schema,
        params: EvaluateParams,
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
