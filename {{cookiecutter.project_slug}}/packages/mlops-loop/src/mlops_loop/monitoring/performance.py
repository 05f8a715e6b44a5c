"""Performance: quality of the predictions whose ground truth is known, against the test window."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days
from mlops_loop.metrics.calibration import calibration
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Numbers, Scored
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.labelled_rows import labelled, measure, resampling_groups
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    CalibrationError,
    Delay,
    Metric,
    Performance,
    SliceMetrics,
)

RESAMPLES = 200
CALIBRATION_BINS = 10


def check(found: Evaluation) -> Performance:
    window = found.window
    point = found.bundle.operating_point
    rows, scored = labelled(window.labelled, found.schema, point)
    scored = replace(scored, params=found.params.evaluate)
    delay = (pd.to_datetime(rows["recorded"]) - pd.to_datetime(rows["time"])) / pd.Timedelta(days=1)
    known = Performance(
        labelled=window.known,
        coverage=window.known / max(1, window.rows),
        delay_days=Delay(median=delay.median(), p95=delay.quantile(0.95)) if len(rows) else None,
    )
    least = found.params.monitor.decay.min_labels
    if len(rows) < least:
        found.not_judged["decay"] = (
            f"{len(rows):,} outcomes of version {found.bundle.version} are too few: "
            f"monitor.decay.min_labels asks for {least:,}"
        )
        return known
    measured = {
        "metrics": check_metrics(found, scored, resampling_groups(rows)),
        "calibration_error": check_calibration(found, scored),
        "calibration": calibration_curve(scored),
        "slices": slice_metrics(found, scored, window.features.loc[rows.index]),
    }
    return known.model_copy(update=measured)


def check_metrics(found: Evaluation, scored: Scored, groups: Numbers) -> dict[str, Metric]:
    """Return each metric of the window with its 95 % interval, and what it was on the test window.

    `drop` is the lower end of an interval of decay.confidence, from resamples of both. A metric of
    the gates that surely fell too far is an alarm.
    """
    limits = found.params.monitor.decay
    others = days(found.held_out, found.schema) + groups.max() + 1
    both = np.concatenate([groups, others])
    now = measure(scored, both, 0, RESAMPLES)
    then = measure(found.tested, both, len(groups), RESAMPLES)
    metrics = {
        name: Metric(**dict(now.interval(name)), reference=then.values[name]) for name in now.values
    }
    for name, more_is_better in tasks.of(found.schema).GATE_METRICS.items():
        worse = (then.resampled[name] - now.resampled[name]) * (1 if more_is_better else -1)
        drop = worse.quantile(1 - limits.confidence) / max(abs(then.values[name]), 1e-30)
        metric = metrics[name] = Metric(**metrics[name].model_dump() | {"drop": drop})
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


def check_calibration(found: Evaluation, scored: Scored) -> CalibrationError:
    """Return the miscalibration here and on the test window, and the limit of the gate."""
    task = tasks.of(found.schema)
    error, limit = calibration(scored, found.params.monitor.decay.max_calibration_error)
    usual = task.miscalibration(found.tested)
    measure = task.MISCALIBRATION
    if worse := error > limit:
        text = f"{measure} {error:.3g}, on the test window {usual:.3g}"
        found.alarm("decay.calibration", error, limit, text)
    return CalibrationError(measure=measure, value=error, reference=usual, limit=limit, worse=worse)


def calibration_curve(scored: Scored) -> list[CalibrationBin]:
    """Return predicted and observed means over bins of equal size, by what was predicted."""
    schema = scored.schema
    predicted = scored.scores[:, 0]
    observed = scored.truth
    if schema.positive:
        predicted = scored.scores[:, schema.classes.index(schema.positive)]
    elif schema.classes:
        predicted = scored.scores.max(axis=1)
        observed = scored.truth == scored.scores.argmax(axis=1)
    bins = pd.qcut(pd.Series(predicted), CALIBRATION_BINS, labels=False, duplicates="drop")
    table = pd.DataFrame({"predicted": predicted, "observed": observed.astype(float), "rows": 1})
    means = table.groupby(bins).agg({"predicted": "mean", "observed": "mean", "rows": "sum"})
    return [CalibrationBin(**line) for line in means.to_dict(orient="records")]


def slice_metrics(found: Evaluation, scored: Scored, features: pd.DataFrame) -> list[SliceMetrics]:
    """Return the task's few metrics for each value, with enough rows, of the logged slices."""
    slices = []
    of_models = found.bundle.manifest.segments
    names = dict.fromkeys([*([of_models.column] if of_models else []), *found.schema.slices])
    for name in [name for name in names if name in features]:
        for value, places in features.groupby(group_values(features[name])).indices.items():
            if len(places) < found.params.evaluate.min_slice_rows:
                continue
            if measured := tasks.slice_metrics(scored.at(places)):
                facts = {"column": name, "value": str(value), "rows": len(places)}
                slices.append(SliceMetrics.model_validate(facts | measured))
    return slices
