"""How far a model's promises are from what is observed: probabilities, or intervals' coverage."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops_loop.base.params import EvaluateParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scores, Truth
from mlops_loop.scoring.operating_point import OperatingPoint

RESAMPLES = 200  # truths that keep the promises, to know what chance alone gives


@dataclass(frozen=True)
class Calibration:
    """`error` in the unit of the task's MISCALIBRATION, and the largest that is allowed."""

    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def calibration(
    truth: Truth,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
    max_error: float,
) -> Calibration:
    """Return the miscalibration of scores, and its limit.

    Where the error is more than `max_error`, the limit is what a model whose promises are right
    would have by chance with so few rows, in 95 of 100 cases.
    """
    task = tasks.of(schema)
    limit = max_error
    error = task.miscalibration(truth, scores, point, schema, params)
    if error > limit:
        draws = np.random.default_rng(0)
        given = (scores, point, schema, params)
        chance = [
            task.miscalibration(task.sample_labels(draws, *given), *given) for _ in range(RESAMPLES)
        ]
        limit = max(limit, float(np.quantile(chance, 0.95)))
    return Calibration(error, limit)


def held_out_scores(held_out: pd.DataFrame, schema: Schema) -> tuple[Truth, Scores]:
    """Return truths and scores of the bundle's sample of its test window."""
    scores = held_out[[name for name in held_out if str(name).startswith("score ")]].to_numpy()
    return tasks.of(schema).truth(held_out, schema), scores
