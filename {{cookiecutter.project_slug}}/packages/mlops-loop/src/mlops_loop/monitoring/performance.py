"""Performance: quality of predictions whose ground truth is known, and an estimate for the rest.

The estimate takes the model's own promises for true: probabilities, or the size of its errors on
rows it had not seen. It sees that rows got harder, not that the world changed. Source: Garg et al.,
Leveraging unlabeled data to predict out-of-distribution performance, ICLR 2022, which also says
when such estimates fail.
"""

import numpy as np
import pandas as pd

from mlops_loop.base.params.params_file import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import calibration as calibrated
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Floats
from mlops_loop.monitoring.labelled_rows import (
    ENDS,
    LabelledRows,
    logged_scores,
    measure,
    resampling_groups,
)
from mlops_loop.monitoring.monitoring_window import MonitoringWindow
from mlops_loop.monitoring.rules import Findings
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    CalibrationError,
    Delay,
    Interval,
    Metric,
    Performance,
    SliceMetrics,
)
from mlops_loop.scoring.bundle import Bundle

RESAMPLES = 200
LABEL_SAMPLES = 50  # sets of labels that the probabilities stand for
CALIBRATION_BINS = 10


def check(
    window: MonitoringWindow,
    held_out: pd.DataFrame,
    bundle: Bundle,
    params: Params,
    findings: Findings,
) -> Performance:
    """Compare the predictions whose ground truth is known with the test window."""
    schema = bundle.schema
    limits = params.monitor.decay
    labelled = LabelledRows.of(window.labelled.facts, schema)
    known = Performance(
        labelled=window.known,
        coverage=window.known / max(1, window.rows),
        delay_days=label_delay(labelled.rows),
    )
    if (rows := len(labelled.rows)) < limits.min_labels:
        findings.not_judged["decay"] = (
            f"{rows:,} outcomes of version {bundle.version} are too few: "
            f"monitor.decay.min_labels asks for {limits.min_labels:,}"
        )
        return known
    metrics = measure_metrics(labelled, held_out, bundle, limits.confidence)
    error = calibration_error(labelled, held_out, bundle, params)
    check_metrics(metrics, limits.max_drop, schema, findings)
    if error.worse:
        text = f"{error.measure} {error.value:.3g}, on the test window {error.reference:.3g}"
        findings.alarm("decay.calibration", error.value, error.limit, text)
    measured = {
        "metrics": metrics,
        "calibration_error": error,
        "calibration": calibration_curve(labelled, schema),
        "slices": slice_metrics(
            labelled, window.labelled.features, schema, params.evaluate.min_slice_rows
        ),
    }
    return known.model_copy(update=measured)


def label_delay(rows: pd.DataFrame) -> Delay | None:
    """Return after how many days the ground truth was known."""
    if rows.empty:
        return None
    delay = pd.to_datetime(rows["recorded"]) - pd.to_datetime(rows["time"])
    days = delay / pd.Timedelta(days=1)
    return Delay(median=days.median(), p95=days.quantile(0.95))


def measure_metrics(
    labelled: LabelledRows, held_out: pd.DataFrame, bundle: Bundle, confidence: float
) -> dict[str, Metric]:
    """Return each metric of the window with its 95 % interval, and what it was on the test window.

    `drop` is the lower end of an interval of this confidence, from resamples of both.
    """
    schema = bundle.schema
    point = bundle.operating_point
    gates = tasks.of(schema).GATE_METRICS
    sides = (labelled.truth, labelled.scores, point), (*held_out_scores(held_out, schema), point)
    groups = resampling_groups(labelled.rows)
    others = days(held_out, schema) + groups.max() + 1
    now, then = measure(sides, (groups, others), RESAMPLES, schema)
    found = {}
    for name in now.values:
        reference = then.values[name]
        drop = None
        if name in gates:
            worse = (then.resampled[name] - now.resampled[name]) * (1 if gates[name] else -1)
            drop = worse.quantile(1 - confidence) / max(abs(reference), 1e-30)
        found[name] = Metric(**dict(now.interval(name)), reference=reference, drop=drop)
    return found


def check_metrics(
    metrics: dict[str, Metric], max_drop: float, schema: Schema, findings: Findings
) -> None:
    """Add an alarm for each metric of the gates that surely fell too far."""
    for name in tasks.of(schema).GATE_METRICS:
        rule = f"decay.{name}"
        metric = metrics.get(name, Metric())
        if metric.drop is None:
            findings.not_judged[rule] = "these outcomes do not tell it, such as those of one class"
        elif metric.drop > max_drop:
            text = (
                f"{name} {metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g}), on the test "
                f"window {metric.reference:.4g}: surely worse by {metric.drop:.1%}"
            )
            findings.alarm(rule, metric.drop, max_drop, text)


def calibration_error(
    labelled: LabelledRows, held_out: pd.DataFrame, bundle: Bundle, params: Params
) -> CalibrationError:
    """Return the miscalibration here and on the test window, and its limit.

    The limit is that of the gate: more where so few rows would show more by chance.
    """
    task = tasks.of(bundle.schema)
    given = (bundle.operating_point, bundle.schema, params.evaluate)
    max_error = params.monitor.decay.max_calibration_error
    found = calibrated.calibration(labelled.truth, labelled.scores, *given, max_error)
    return CalibrationError(
        measure=task.MISCALIBRATION,
        value=found.error,
        reference=task.miscalibration(*held_out_scores(held_out, bundle.schema), *given),
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


def slice_metrics(
    labelled: LabelledRows, features: pd.DataFrame, schema: Schema, min_rows: int
) -> list[SliceMetrics]:
    """Return the task's few metrics for each value, with enough rows, of the logged slices."""
    features = features.loc[labelled.rows.index]
    found = []
    for name in [name for name in schema.slices if name in features]:
        for value, places in features.groupby(group_values(features[name])).indices.items():
            if len(places) < min_rows:
                continue
            measured = tasks.of(schema).slice_metrics(
                labelled.truth[places], labelled.scores[places], schema
            )
            if measured:
                facts = {"column": name, "value": str(value), "rows": len(places)}
                found.append(SliceMetrics.model_validate(facts | measured))
    return found


def estimate(
    outputs: pd.Series, held_out: pd.DataFrame, bundle: Bundle, params: Params
) -> dict[str, Interval]:
    """Return the metrics that the predictions are expected to have, with the range of chance.

    A classification's probabilities are taken for true. A regression's errors are taken for as
    large as those of similar predictions on the test window.
    """
    schema = bundle.schema
    point = bundle.operating_point
    task = tasks.of(schema)
    scores = logged_scores(outputs, schema)
    random = np.random.default_rng(0)
    known, scored = held_out_scores(held_out, schema)
    samples = []
    for _ in range(LABEL_SAMPLES):
        if schema.classes:
            truth = task.sample_labels(random, scores, point, schema, params.evaluate)
        else:
            errors = known - scored[:, 0]
            truth = scores[:, 0] + similar_errors(random, scores[:, 0], errors, scored[:, 0])
        samples.append(task.weighted_metrics(truth, scores, point, schema)(np.ones(len(scores))))
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
