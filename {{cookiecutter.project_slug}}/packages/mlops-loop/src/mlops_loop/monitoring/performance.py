"""Performance: quality of predictions whose ground truth is known, and an estimate for the rest.

The estimate takes the model's own promises for true: probabilities, or the size of its errors on
rows it had not seen. It sees that rows got harder, not that the world changed. Source: Garg et al.,
Leveraging unlabeled data to predict out-of-distribution performance, ICLR 2022, which also says
when such estimates fail.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days
from mlops_loop.metrics.calibration import calibration
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Floats, Scored
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.labelled_rows import (
    ENDS,
    LabelledRows,
    logged_scores,
    measure,
    resampling_groups,
)
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    CalibrationError,
    Delay,
    Interval,
    Metric,
    Performance,
    SliceMetrics,
)

RESAMPLES = 200
LABEL_SAMPLES = 50  # sets of labels that the probabilities stand for
CALIBRATION_BINS = 10


def check(found: Evaluation) -> Performance:
    """Compare the predictions whose ground truth is known with the test window."""
    window = found.window
    labelled = LabelledRows.of(window.labelled.facts, found.schema)
    known = Performance(
        labelled=window.known,
        coverage=window.known / max(1, window.rows),
        delay_days=label_delay(labelled.rows),
    )
    least = found.params.monitor.decay.min_labels
    if (rows := len(labelled.rows)) < least:
        found.not_judged["decay"] = (
            f"{rows:,} outcomes of version {found.bundle.version} are too few: "
            f"monitor.decay.min_labels asks for {least:,}"
        )
        return known
    measured = {
        "metrics": check_metrics(found, labelled),
        "calibration_error": check_calibration(found, labelled),
        "calibration": calibration_curve(labelled, found.schema),
        "slices": slice_metrics(found, labelled),
    }
    return known.model_copy(update=measured)


def label_delay(rows: pd.DataFrame) -> Delay | None:
    """Return after how many days the ground truth was known."""
    if rows.empty:
        return None
    delay = pd.to_datetime(rows["recorded"]) - pd.to_datetime(rows["time"])
    days = delay / pd.Timedelta(days=1)
    return Delay(median=days.median(), p95=days.quantile(0.95))


def check_metrics(found: Evaluation, labelled: LabelledRows) -> dict[str, Metric]:
    """Return each metric of the window with its 95 % interval, and what it was on the test window.

    `drop` is the lower end of an interval of decay.confidence, from resamples of both. A metric of
    the gates that surely fell too far is an alarm.
    """
    limits = found.params.monitor.decay
    point = found.bundle.operating_point
    gates = tasks.of(found.schema).GATE_METRICS
    groups = resampling_groups(labelled.rows)
    others = days(found.held_out, found.schema) + groups.max() + 1
    scored = Scored(labelled.truth, labelled.scores, point, found.schema)
    known, scores = found.tested
    sides = (scored, replace(scored, truth=known, scores=scores))
    now, then = measure(sides, (groups, others), RESAMPLES, found.schema)
    metrics = {}
    for name in now.values:
        reference = then.values[name]
        drop = None
        if name in gates:
            worse = (then.resampled[name] - now.resampled[name]) * (1 if gates[name] else -1)
            drop = worse.quantile(1 - limits.confidence) / max(abs(reference), 1e-30)
        metrics[name] = Metric(**dict(now.interval(name)), reference=reference, drop=drop)
    for name in gates:
        metric = metrics.get(name, Metric())
        if metric.drop is None:
            why = "these outcomes do not tell it, such as those of one class"
            found.not_judged[f"decay.{name}"] = why
        elif metric.drop > limits.max_drop:
            text = (
                f"{name} {metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g}), on the test "
                f"window {metric.reference:.4g}: surely worse by {metric.drop:.1%}"
            )
            found.alarm(f"decay.{name}", metric.drop, limits.max_drop, text)
    return metrics


def check_calibration(found: Evaluation, labelled: LabelledRows) -> CalibrationError:
    """Return the miscalibration here and on the test window, and the limit of the gate."""
    task = tasks.of(found.schema)
    point = found.bundle.operating_point
    scored = Scored(labelled.truth, labelled.scores, point, found.schema, found.params.evaluate)
    error, limit = calibration(scored, found.params.monitor.decay.max_calibration_error)
    known, scores = found.tested
    reference = task.miscalibration(replace(scored, truth=known, scores=scores))
    worse = error > limit
    if worse:
        text = f"{task.MISCALIBRATION} {error:.3g}, on the test window {reference:.3g}"
        found.alarm("decay.calibration", error, limit, text)
    return CalibrationError(
        measure=task.MISCALIBRATION, value=error, reference=reference, limit=limit, worse=worse
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


def slice_metrics(found: Evaluation, labelled: LabelledRows) -> list[SliceMetrics]:
    """Return the task's few metrics for each value, with enough rows, of the logged slices."""
    schema = found.schema
    features = found.window.labelled.features.loc[labelled.rows.index]
    scored = Scored(labelled.truth, labelled.scores, found.bundle.operating_point, schema)
    slices = []
    for name in [name for name in schema.slices if name in features]:
        for value, places in features.groupby(group_values(features[name])).indices.items():
            if len(places) < found.params.evaluate.min_slice_rows:
                continue
            if measured := tasks.slice_metrics(scored.at(places)):
                facts = {"column": name, "value": str(value), "rows": len(places)}
                slices.append(SliceMetrics.model_validate(facts | measured))
    return slices


def estimate(found: Evaluation) -> dict[str, Interval]:
    """Return the metrics that the predictions are expected to have, with the range of chance.

    A classification's probabilities are taken for true. A regression's errors are taken for as
    large as those of similar predictions on the test window.
    """
    schema = found.schema
    point = found.bundle.operating_point
    task = tasks.of(schema)
    scores = logged_scores(found.window.answered.facts["output"], schema)
    random = np.random.default_rng(0)
    known, scored = found.tested
    unknown = Scored(np.zeros(len(scores)), scores, point, schema, found.params.evaluate)
    samples = []
    for _ in range(LABEL_SAMPLES):
        if schema.classes:
            truth = task.sample_labels(random, unknown)
        else:
            errors = known - scored[:, 0]
            truth = scores[:, 0] + similar_errors(random, scores[:, 0], errors, scored[:, 0])
        metrics = task.weighted_metrics(replace(unknown, truth=truth))
        samples.append(metrics(np.ones(len(scores))))
    table = pd.DataFrame(samples)
    ends = table.quantile(ENDS)
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
