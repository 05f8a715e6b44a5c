"""Labelled rows: logged predictions whose ground truth is known, and how sure their metrics are."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import FEWEST_DAYS, resample
from mlops_loop.metrics.values import Metrics, Numbers, Scored, Scores
from mlops_loop.prediction_log.window_summary import Interval
from mlops_loop.scoring.bundle import OperatingPoint

REQUEST_DIGITS = 28  # of a prediction's id, that name its request
ENDS = [0.025, 0.975]  # of a 95 % interval


def labelled(
    rows: pd.DataFrame, schema: Schema, point: OperatingPoint
) -> tuple[pd.DataFrame, Scored]:
    """Return those logged rows whose `value` can be a truth: a class, or a number."""
    if schema.classes:
        rows = rows.assign(value=rows["value"].map(str))
        rows = rows[rows["value"].isin(schema.classes)]
    else:
        rows = rows.assign(value=pd.to_numeric(rows["value"], errors="coerce").astype(float))
        rows = rows[np.isfinite(rows["value"])]
    named = rows[["value"]].rename(columns={"value": schema.target})
    truth = tasks.of(schema).truth(named, schema)
    return rows, Scored(truth, logged_scores(rows["output"], schema), point, schema)


def logged_scores(outputs: pd.Series, schema: Schema) -> Scores:
    """Return logged outputs as the model's scores, shape (rows, classes) or (rows, 1)."""
    if schema.classes:
        rows = [[output["probabilities"][name] for name in schema.classes] for output in outputs]
    else:
        rows = [[output["value"]] for output in outputs]
    return np.array(rows, dtype=float)


def resampling_groups(rows: pd.DataFrame) -> Numbers:
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


def measure(scored: Scored, groups: Numbers, start: int, resamples: int) -> Measured:
    """Return the metrics of rows, and of resamples in which rows of a group are drawn together.

    `groups` are of all rows that are compared; those of `scored` begin at `start`.
    """
    statistic = tasks.of(scored.schema).weighted_metrics(scored)
    rows = slice(start, start + len(scored.truth))
    resampled = resample(lambda weights: statistic(weights[rows]), groups, resamples)
    return Measured(tasks.weighted(scored), resampled)
