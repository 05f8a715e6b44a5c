"""Performance: how good the answers were whose outcome is known, and an estimate for those where it is not.

The estimate takes the model's own promises for true: probabilities, or the size of its errors on rows it had
not seen. It sees that rows got harder, not that the world changed. Source: Garg et al., Leveraging unlabeled
data to predict out-of-distribution performance, ICLR 2022, which also says when such estimates fail.
"""

from typing import Any

import numpy as np
import pandas as pd

from mlops_loop.base.params import Decay, Params
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import calibration as calibrated
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.fairness import values
from mlops_loop.monitoring import compare
from mlops_loop.monitoring.monitoring_window import features
from mlops_loop.scoring.operating_point import OperatingPoint

RESAMPLES = 200
DRAWS = 50  # sets of outcomes that the probabilities stand for
BINS = 10


def truths(rows: pd.DataFrame, schema: Schema) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the rows whose outcome can be a truth, the truths as the task takes them, and the scores."""
    usable = compare.usable(rows, schema)
    named = usable[["value"]].rename(columns={"value": schema.target})
    return usable, tasks.of(schema).truth(named, schema), compare.scores(usable["output"], schema)


def measure(
    labelled: pd.DataFrame,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    limits: Decay,
) -> dict[str, dict[str, Any]]:
    """Return each metric of the window with its 95 % interval, and what it was on the test window.

    `drop` is by how much it surely is worse, as a share of the latter: the lower end of an interval of
    limits.confidence, from resamples of both.
    """
    rows, truth, scores = truths(labelled, schema)
    before, scored = held_out_scores(held_out, schema)
    task = tasks.of(schema)
    now, then = (
        task.weighted_metrics(truth, scores, operating_point, schema),
        task.weighted_metrics(before, scored, operating_point, schema),
    )
    value, reference = now(np.ones(len(truth))), then(np.ones(len(before)))
    drawn = resample(now, compare.groups(rows), RESAMPLES)
    usual = resample(then, days(held_out, schema), RESAMPLES, seed=1)
    found: dict[str, dict[str, Any]] = {}
    for name in value:
        low, high = drawn[name].quantile([0.025, 0.975])
        numbers = {"value": value[name], "low": low, "high": high, "reference": reference[name]}
        if name in task.GATE_METRICS:
            worse = (usual[name] - drawn[name]) * (1 if task.GATE_METRICS[name] else -1)
            numbers["drop"] = worse.quantile(1 - limits.confidence) / max(
                abs(reference[name]), 1e-30
            )
        found[name] = {key: finite(number) for key, number in numbers.items()}
    return found


def finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def calibration(
    labelled: pd.DataFrame,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    params: Params,
) -> dict[str, Any]:
    """Return how far the promises are from what came true, what that was on the test window, and the limit.

    The limit is that of the gate: more where so few rows would show more by chance.
    """
    _, truth, scores = truths(labelled, schema)
    task, given = tasks.of(schema), (operating_point, schema, params.evaluate)
    max_error = params.monitor.decay.max_calibration_error
    found = calibrated.calibration(truth, scores, *given, max_error)
    known, scored = held_out_scores(held_out, schema)
    before = task.miscalibration(known, scored, *given)
    return {
        "measure": task.MISCALIBRATION,
        "value": finite(found.error),
        "reference": finite(before),
        "limit": found.limit,
        "worse": not found.passed and np.isfinite(found.error),
    }


def curve(labelled: pd.DataFrame, schema: Schema) -> list[dict[str, float]]:
    """Return predicted and observed, on average over bins of equal size by what was predicted."""
    _, truth, scores = truths(labelled, schema)
    predicted, observed = scores[:, 0], truth
    if schema.classes:
        place = schema.classes.index(schema.positive) if schema.positive else None
        sure = scores.argmax(axis=1)
        predicted = scores.max(axis=1) if place is None else scores[:, place]
        observed = truth if place is not None else truth == sure
    bins = pd.qcut(pd.Series(predicted), BINS, labels=False, duplicates="drop")
    table = pd.DataFrame({"predicted": predicted, "observed": observed.astype(float), "rows": 1})
    found = table.groupby(bins).agg({"predicted": "mean", "observed": "mean", "rows": "sum"})
    lines: list[dict[str, float]] = found.to_dict(orient="records")
    return lines


def by_slice(labelled: pd.DataFrame, schema: Schema, minimum: int) -> list[dict[str, Any]]:
    """Return the task's few metrics for each value, with enough rows, of the slices that the log holds."""
    rows, truth, scores = truths(labelled, schema)
    task, known, found = tasks.of(schema), features(rows), list[dict[str, Any]]()
    for name in [name for name in schema.slices if name in known]:
        for value, places in known.groupby(values(known[name])).indices.items():
            if len(places) >= minimum and (
                measured := task.slice_metrics(truth[places], scores[places], schema)
            ):
                numbers = {key: finite(number) for key, number in measured.items()}
                found.append({"column": name, "value": str(value), "rows": len(places), **numbers})
    return found


def estimate(
    outputs: pd.Series,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    params: Params,
) -> dict[str, dict[str, float | None]]:
    """Return the metrics that the answers are expected to have, with the range that chance gives them.

    Of a classification its probabilities are taken for true. Of a regression the errors are taken for as
    large as those of similar predictions on the test window.
    """
    task, scores, draws = (
        tasks.of(schema),
        compare.scores(outputs, schema),
        np.random.default_rng(0),
    )
    before, scored = held_out_scores(held_out, schema)
    drawn = []
    for _ in range(DRAWS):
        if schema.classes:
            truth = task.sample_labels(draws, scores, operating_point, schema, params.evaluate)
        else:
            truth = scores[:, 0] + similar_errors(
                draws, scores[:, 0], before - scored[:, 0], scored[:, 0]
            )
        drawn.append(
            task.weighted_metrics(truth, scores, operating_point, schema)(np.ones(len(scores)))
        )
    table, found = pd.DataFrame(drawn), dict[str, dict[str, float | None]]()
    for name in table:
        low, high = table[name].quantile([0.025, 0.975])
        found[name] = {
            "value": finite(table[name].mean()),
            "low": finite(low),
            "high": finite(high),
        }
    return found


def similar_errors(
    draws: np.random.Generator, predicted: np.ndarray, errors: np.ndarray, scored: np.ndarray
) -> np.ndarray:
    """Return for each prediction an error that the model made where it had predicted about as much."""
    order = np.argsort(scored, kind="stable")
    near = np.searchsorted(scored[order], predicted) + draws.integers(-50, 51, len(predicted))
    found: np.ndarray = errors[order][np.clip(near, 0, len(order) - 1)]
    return found
