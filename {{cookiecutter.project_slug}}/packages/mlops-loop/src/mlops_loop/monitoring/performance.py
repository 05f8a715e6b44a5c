"""Performance: quality of predictions whose ground truth is known, and an estimate for the rest.

The estimate takes the model's own promises for true: probabilities, or the size of its errors on
rows it had not seen. It sees that rows got harder, not that the world changed. Source: Garg et al.,
Leveraging unlabeled data to predict out-of-distribution performance, ICLR 2022, which also says
when such estimates fail.
"""

import numpy as np
import pandas as pd

from mlops_loop.base.params import Decay, Params
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import calibration as calibrated
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Floats
from mlops_loop.monitoring.labelled_rows import LabelledRows, logged_scores, resampling_groups
from mlops_loop.monitoring.monitoring_window import features_of
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    CalibrationError,
    Interval,
    Metric,
    SliceMetrics,
)
from mlops_loop.scoring.operating_point import OperatingPoint

RESAMPLES = 200
LABEL_SAMPLES = 50  # sets of labels that the probabilities stand for
CALIBRATION_BINS = 10
INTERVAL = [0.025, 0.975]


def measure(
    labelled: LabelledRows,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    limits: Decay,
) -> dict[str, Metric]:
    """Return each metric of the window with its 95 % interval, and what it was on the test window.

    `drop` is the lower end of an interval of limits.confidence, from resamples of both.
    """
    task = tasks.of(schema)
    known, scored = held_out_scores(held_out, schema)
    now = task.weighted_metrics(labelled.truth, labelled.scores, operating_point, schema)
    then = task.weighted_metrics(known, scored, operating_point, schema)
    values = now(np.ones(len(labelled.truth)))
    reference = then(np.ones(len(known)))
    resampled = resample(now, resampling_groups(labelled.rows), RESAMPLES)
    resampled_before = resample(then, days(held_out, schema), RESAMPLES, seed=1)
    found = {}
    for name, value in values.items():
        low, high = resampled[name].quantile(INTERVAL)
        drop = None
        if name in task.GATE_METRICS:
            sign = 1 if task.GATE_METRICS[name] else -1
            worse = (resampled_before[name] - resampled[name]) * sign
            smallest = max(abs(reference[name]), 1e-30)
            drop = worse.quantile(1 - limits.confidence) / smallest
        found[name] = Metric(value=value, low=low, high=high, reference=reference[name], drop=drop)
    return found


def calibration_error(
    labelled: LabelledRows,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    params: Params,
) -> CalibrationError:
    """Return the miscalibration here and on the test window, and its limit.

    The limit is that of the gate: more where so few rows would show more by chance.
    """
    task = tasks.of(schema)
    max_error = params.monitor.decay.max_calibration_error
    found = calibrated.calibration(
        labelled.truth, labelled.scores, operating_point, schema, params.evaluate, max_error
    )
    known, scored = held_out_scores(held_out, schema)
    before = task.miscalibration(known, scored, operating_point, schema, params.evaluate)
    return CalibrationError(
        measure=task.MISCALIBRATION,
        value=found.error,
        reference=before,
        limit=found.limit,
        worse=not found.passed and bool(np.isfinite(found.error)),
    )


def calibration_curve(labelled: LabelledRows, schema: Schema) -> list[CalibrationBin]:
    """Return predicted and observed means over bins of equal size, by what was predicted."""
    truth = labelled.truth
    scores = labelled.scores
    predicted = scores[:, 0]
    observed = truth
    if schema.positive:
        predicted = scores[:, schema.classes.index(schema.positive)]
    elif schema.classes:
        predicted = scores.max(axis=1)
        observed = truth == scores.argmax(axis=1)
    bins = pd.qcut(pd.Series(predicted), CALIBRATION_BINS, labels=False, duplicates="drop")
    table = pd.DataFrame({"predicted": predicted, "observed": observed.astype(float), "rows": 1})
    means = table.groupby(bins).agg({"predicted": "mean", "observed": "mean", "rows": "sum"})
    return [CalibrationBin(**line) for line in means.to_dict(orient="records")]


def slice_metrics(labelled: LabelledRows, schema: Schema, min_rows: int) -> list[SliceMetrics]:
    """Return the task's few metrics for each value, with enough rows, of the logged slices."""
    task = tasks.of(schema)
    features = features_of(labelled.rows)
    found = []
    for name in [name for name in schema.slices if name in features]:
        for value, places in features.groupby(group_values(features[name])).indices.items():
            if len(places) < min_rows:
                continue
            measured = task.slice_metrics(labelled.truth[places], labelled.scores[places], schema)
            if measured:
                facts = {"column": name, "value": str(value), "rows": len(places)}
                found.append(SliceMetrics.model_validate({**facts, **measured}))
    return found


def estimate(
    outputs: pd.Series,
    held_out: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    params: Params,
) -> dict[str, Interval]:
    """Return the metrics that the predictions are expected to have, with the range of chance.

    A classification's probabilities are taken for true. A regression's errors are taken for as
    large as those of similar predictions on the test window.
    """
    task = tasks.of(schema)
    scores = logged_scores(outputs, schema)
    random = np.random.default_rng(0)
    known, scored = held_out_scores(held_out, schema)
    samples = []
    for _ in range(LABEL_SAMPLES):
        if schema.classes:
            truth = task.sample_labels(random, scores, operating_point, schema, params.evaluate)
        else:
            errors = known - scored[:, 0]
            truth = scores[:, 0] + similar_errors(random, scores[:, 0], errors, scored[:, 0])
        metrics = task.weighted_metrics(truth, scores, operating_point, schema)
        samples.append(metrics(np.ones(len(scores))))
    table = pd.DataFrame(samples)
    ends = table.quantile(INTERVAL)
    return {
        name: Interval(value=table[name].mean(), low=ends[name].iloc[0], high=ends[name].iloc[1])
        for name in table
    }


def similar_errors(
    random: np.random.Generator, predicted: Floats, errors: Floats, scored: Floats
) -> Floats:
    """Return for each prediction an error that the model made where it predicted about as much."""
    order = np.argsort(scored, kind="stable")
    near = np.searchsorted(scored[order], predicted) + random.integers(-50, 51, len(predicted))
    found: Floats = errors[order][np.clip(near, 0, len(order) - 1)]
    return found
