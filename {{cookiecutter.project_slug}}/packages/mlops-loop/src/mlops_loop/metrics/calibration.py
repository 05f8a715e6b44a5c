"""How far a model's promises are from what is observed: probabilities, or intervals' coverage."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored, Scores, Truth

RESAMPLES = 200  # truths that keep the promises, to know what chance alone gives


def calibration(scored: Scored, max_error: float) -> tuple[float, float]:
    """Return the task's miscalibration, and the largest that is allowed.

    Where it is more than `max_error`, the limit is what a model whose promises are right would have
    by chance with so few rows, in 95 of 100 cases.
    """
    task = tasks.of(scored.schema)
    error = task.miscalibration(scored)
    if error <= max_error:
        return error, max_error
    draws = np.random.default_rng(0)
    kept = (replace(scored, truth=task.sample_labels(draws, scored)) for _ in range(RESAMPLES))
    chance = np.quantile([task.miscalibration(one) for one in kept], 0.95)
    return error, max(max_error, float(chance))


def held_out_scores(held_out: pd.DataFrame, schema: Schema) -> tuple[Truth, Scores]:
    """Return truths and scores of the bundle's sample of its test window."""
    scores = held_out.filter(regex="^score ").to_numpy()
    return tasks.of(schema).truth(held_out, schema), scores
