"""Labelled rows: logged predictions whose ground truth is known, and how sure their metrics are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import FEWEST_DAYS
from mlops_loop.metrics.values import Metrics, Scored, Scores, Truth
from mlops_loop.prediction_log.window_summary import Interval

REQUEST_DIGITS = 28  # of a prediction's id, that name its request
ENDS = [0.025, 0.975]  # of a 95 % interval


@dataclass(frozen=True)
class LabelledRows:
    """`rows` are those whose outcome can be a truth; `truth` and `scores` are as the task's."""

    rows: pd.DataFrame
    truth: Truth
    scores: Scores

    @classmethod
    def of(cls, rows: pd.DataFrame, schema: Schema) -> Self:
        """Return logged rows: output, and value, one of the classes or a number."""
        if schema.classes:
            rows = rows.assign(value=rows["value"].map(str))
            rows = rows[rows["value"].isin(schema.classes)]
        else:
            rows = rows.assign(value=pd.to_numeric(rows["value"], errors="coerce").astype(float))
            rows = rows[np.isfinite(rows["value"])]
        named = rows[["value"]].rename(columns={"value": schema.target})
        truth = tasks.of(schema).truth(named, schema)
        return cls(rows, truth, logged_scores(rows["output"], schema))


def logged_scores(outputs: pd.Series, schema: Schema) -> Scores:
    """Return logged outputs as the model's scores, shape (rows, classes) or (rows, 1)."""
    if schema.classes:
        rows = [[output["probabilities"][name] for name in schema.classes] for output in outputs]
    else:
        rows = [[output["value"]] for output in outputs]
    return np.array(rows, dtype=float)


def resampling_groups(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return a code for the group that each row is drawn with: its day, or its request."""
    codes, days = pd.factorize(pd.to_datetime(rows["time"]).dt.floor("D"))
    if len(days) < FEWEST_DAYS:
        codes, _ = pd.factorize(rows["answered"].str[:REQUEST_DIGITS])
    return np.asarray(codes)


@dataclass(frozen=True)
class Measured:
    """The metrics of a set of rows, and of each resample of it, a row each."""

    values: Metrics
    resampled: pd.DataFrame

    def interval(self, name: str) -> Interval:
        """Return a metric with its 95 % interval."""
        low, high = self.resampled[name].quantile(ENDS)
        return Interval(value=self.values[name], low=low, high=high)


def measure(
    sides: Sequence[Scored],
    groups: Sequence[NDArray[np.int64]],
    resamples: int,
    schema: Schema,
) -> list[Measured]:
    """Return the metrics of sets of rows; those of a group are drawn together, in any set."""
    statistics = [tasks.of(schema).weighted_metrics(side) for side in sides]
    pairs = list(zip(statistics, groups, strict=True))
    draws = np.random.default_rng(0)
    count = max(int(codes.max()) for codes in groups) + 1
    resampled: list[list[Metrics]] = []
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [statistic(np.ones(len(codes))) for statistic, codes in pairs]
        for _ in range(resamples):
            drawn = draws.poisson(1.0, count)
            resampled.append([statistic(drawn[codes]) for statistic, codes in pairs])
    tables = map(pd.DataFrame, zip(*resampled, strict=True))
    return [Measured(value, table) for value, table in zip(values, tables, strict=True)]
