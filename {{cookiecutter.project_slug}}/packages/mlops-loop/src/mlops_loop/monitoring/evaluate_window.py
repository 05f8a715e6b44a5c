"""Evaluate a window: drift, data quality and performance, and the alarms that follow."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pandas as pd

from mlops_loop.base.params import Monitor, Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.monitoring import data_quality, drift, performance
from mlops_loop.monitoring.drift import EvidentlyReport
from mlops_loop.monitoring.evidently_report import evidently_report
from mlops_loop.monitoring.labelled_rows import LabelledRows
from mlops_loop.monitoring.monitoring_window import (
    MonitoringWindow,
    features_of,
    logged_features,
)
from mlops_loop.monitoring.rules import Rule
from mlops_loop.prediction_log.window_summary import (
    Alarm,
    ColumnDrift,
    DataQuality,
    Delay,
    Drift,
    Interval,
    Performance,
)
from mlops_loop.scoring.bundle import HELD_OUT, REFERENCE, Bundle

NOTHING_KNOWN = Performance()


@dataclass(frozen=True)
class Findings:
    """What a window shows. `not_judged` says why a rule, or a family of them, was not checked."""

    quality: DataQuality
    drift: Drift | None = None
    performance: Performance = NOTHING_KNOWN
    estimate: dict[str, Interval] | None = None
    not_judged: dict[str, str] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    report: EvidentlyReport | None = None


def evaluate(
    window: MonitoringWindow, bundle: Bundle, params: Params, evidently: bool = False
) -> Findings:
    """Return what the window shows of the champion's traffic; Evidently's report on request."""
    held_out = tables.read_table(bundle.folder / HELD_OUT)
    traffic = evaluate_traffic(window, params.monitor)
    inputs = evaluate_inputs(window, held_out, bundle, params, evidently)
    outcomes = evaluate_outcomes(window, held_out, bundle, params)
    return replace(
        inputs,
        quality=inputs.quality.model_copy(
            update={"refused": traffic.quality.refused, "volume": traffic.quality.volume}
        ),
        performance=outcomes.performance,
        not_judged=traffic.not_judged | inputs.not_judged | outcomes.not_judged,
        alarms=[*traffic.alarms, *inputs.alarms, *outcomes.alarms],
    )


def evaluate_traffic(window: MonitoringWindow, params: Monitor) -> Findings:
    """Check how many requests were rejected, and how many rows there are."""
    limit = params.quality.max_refused
    rejected, alarms, too_few = data_quality.check_rejected(window, limit)
    volume, unusual = data_quality.check_volume(window, params)
    not_judged = {"quality.refused": too_few} if too_few else {}
    if volume.usual is None:
        number = data_quality.MIN_EARLIER_WINDOWS
        not_judged["quality.volume"] = (
            f"it takes {number} windows before this one to know what is usual"
        )
    if window.others:
        sampled = window.others + len(window.answered)
        not_judged["other_contract"] = (
            f"{window.others:,} of {sampled:,} are to the question of another contract"
        )
    quality = DataQuality(refused=rejected, volume=volume)
    return Findings(quality, not_judged=not_judged, alarms=[*alarms, *unusual])


def evaluate_inputs(
    window: MonitoringWindow,
    held_out: pd.DataFrame,
    bundle: Bundle,
    params: Params,
    evidently: bool,
) -> Findings:
    """Check features and predictions: drift, missing values, unknown categories."""
    schema = bundle.schema
    monitor = params.monitor
    if (rows := len(window.answered)) < monitor.min_rows:
        few = f"{rows:,} predictions are too few: monitor.min_rows asks for {monitor.min_rows}"
        skipped = dict.fromkeys(("drift", "quality.nulls", "quality.unseen"), few)
        return Findings(DataQuality(), not_judged=skipped)
    reference = tables.read_table(bundle.folder / REFERENCE)
    current = features_of(window.answered)[logged_features(schema)]
    known = reference[logged_features(schema)]
    limits = calibrated_limits(window, reference, held_out, schema, monitor)
    compared = with_predictions(window, reference, held_out, schema)
    distances = limits[drift.DISTANCE].to_dict()
    columns = drift.compare(*compared, schema, distances)
    report = None
    if evidently:
        report = evidently_report(*compared, schema, distances, monitor.drift_columns)
    max_rise = limits[drift.NULLS]
    nulls, missing = data_quality.check_nulls(current, known, max_rise)
    max_unseen = monitor.quality.max_unseen
    unseen, unknown = data_quality.check_unseen(current, known, schema, max_unseen)
    outside = data_quality.outside_range(current, known, schema)
    operating_point = bundle.operating_point
    outputs = window.answered["output"]
    hidden = [name for name in schema.features if name not in known]
    why = f"the log holds no pii columns, so these are not compared: {', '.join(hidden)}"
    return Findings(
        quality=DataQuality(nulls=nulls, unseen=unseen, outside=outside),
        drift=Drift(
            share=sum(column.drifted for column in columns.values()) / len(columns),
            columns=columns,
        ),
        estimate=performance.estimate(outputs, held_out, operating_point, schema, params),
        not_judged={"pii": why} if hidden else {},
        alarms=[*drift_alarms(columns, monitor.drift_columns), *missing, *unknown],
        report=report,
    )


def predictions_on(held_out: pd.DataFrame, schema: Schema) -> pd.Series:
    """Return the model's predictions on the test window.

    The window's predictions are compared with these: on rows that it learned from, a model is
    surer of itself.
    """
    _, scores = held_out_scores(held_out, schema)
    return pd.Series(tasks.of(schema).predictions(scores, schema))


def calibrated_limits(
    window: MonitoringWindow,
    reference: pd.DataFrame,
    held_out: pd.DataFrame,
    schema: Schema,
    params: Monitor,
) -> pd.Series:
    """Return the limits of normal variation, by (drift.DISTANCE or drift.NULLS, column)."""
    numeric = drift.numeric_columns(schema)
    predicted = predictions_on(held_out, schema)
    features = {
        name: drift.encode(reference[name], numeric[name]) for name in logged_features(schema)
    }
    prediction = {schema.prediction: drift.encode(predicted, numeric[schema.prediction])}
    days = (window.end - window.start) / timedelta(days=1)
    found = []
    for columns, table in ((features, reference), (prediction, held_out)):
        when = table[schema.timestamp] if schema.timestamp else None
        rows = len(window.answered)
        found.append(drift.null_distribution(columns, when, rows, days, params.resamples))
    quiet = pd.concat(found, axis="columns")
    least = pd.Series(params.min_distance, index=quiet.columns)
    least[drift.NULLS] = params.quality.max_nulls
    return drift.thresholds(quiet, least, params.false_alarms)


def with_predictions(
    window: MonitoringWindow, reference: pd.DataFrame, held_out: pd.DataFrame, schema: Schema
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the window's features and the reference's, each with predictions."""
    task = tasks.of(schema)
    current = features_of(window.answered)[logged_features(schema)]
    current[schema.prediction] = [
        task.logged_prediction(output, schema) for output in window.answered["output"]
    ]
    predicted = predictions_on(held_out, schema)
    sampled = np.random.default_rng(0).choice(predicted, len(reference))
    return current, reference.assign(**{schema.prediction: sampled})


def drift_alarms(columns: dict[str, ColumnDrift], min_columns: int) -> list[Alarm]:
    """Return an alarm for each column that has drifted, if they are enough."""
    alarms = []
    for name, column in columns.items():
        if not column.drifted:
            continue
        text = f"{name} has no value at all here or in the reference"
        if column.score is not None:
            unit = " standard deviations" if "wasserstein" in column.method.lower() else ""
            text = (
                f"column {name} moved {column.score:.2g}{unit} from the reference; "
                f"usual is at most {column.threshold:.2g}"
            )
        alarms.append(Rule("drift", name).alarm(column.score, column.threshold, text))
    return alarms if len(alarms) >= min_columns else []


def evaluate_outcomes(
    window: MonitoringWindow, held_out: pd.DataFrame, bundle: Bundle, params: Params
) -> Findings:
    """Check the predictions whose ground truth is known against the test window."""
    schema = bundle.schema
    limits = params.monitor.decay
    labelled = LabelledRows.of(window.labelled, schema)
    known = Performance(
        labelled=window.known,
        coverage=window.known / max(1, window.rows),
        delay_days=label_delay(labelled.rows),
    )
    if (rows := len(labelled.rows)) < limits.min_labels:
        few = (
            f"{rows:,} outcomes of version {bundle.version} are too few: "
            f"monitor.decay.min_labels asks for {limits.min_labels:,}"
        )
        return Findings(DataQuality(), performance=known, not_judged={"decay": few})
    operating_point = bundle.operating_point
    min_rows = params.evaluate.min_slice_rows
    measured = known.model_copy(
        update={
            "metrics": performance.measure(labelled, held_out, operating_point, schema, limits),
            "calibration_error": performance.calibration_error(
                labelled, held_out, operating_point, schema, params
            ),
            "calibration": performance.calibration_curve(labelled, schema),
            "slices": performance.slice_metrics(labelled, schema, min_rows),
        }
    )
    return Findings(
        DataQuality(),
        performance=measured,
        not_judged=undecided_metrics(measured, schema),
        alarms=decay_alarms(measured, schema, limits.max_drop),
    )


def label_delay(rows: pd.DataFrame) -> Delay | None:
    """Return after how many days the ground truth was known."""
    if rows.empty:
        return None
    delay = pd.to_datetime(rows["recorded"]) - pd.to_datetime(rows["time"])
    days = delay / pd.Timedelta(days=1)
    return Delay(median=days.median(), p95=days.quantile(0.95))


def undecided_metrics(measured: Performance, schema: Schema) -> dict[str, str]:
    """Return the metrics of the gates that these outcomes do not tell, and why."""
    metrics = measured.metrics or {}
    unknown = [
        name
        for name in tasks.of(schema).GATE_METRICS
        if name not in metrics or metrics[name].drop is None
    ]
    why = "these outcomes do not tell it, such as those of one class"
    return {Rule(f"decay.{name}").id: why for name in unknown}


def decay_alarms(measured: Performance, schema: Schema, max_drop: float) -> list[Alarm]:
    """Return an alarm for each metric of the gates that surely fell too far, and calibration."""
    alarms = []
    for name in tasks.of(schema).GATE_METRICS:
        metric = (measured.metrics or {}).get(name)
        if metric and metric.drop is not None and metric.drop > max_drop:
            text = (
                f"{name} {metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g}), on the test "
                f"window {metric.reference:.4g}: surely worse by {metric.drop:.1%}"
            )
            alarms.append(Rule(f"decay.{name}").alarm(metric.drop, max_drop, text))
    error = measured.calibration_error
    if error and error.worse:
        text = f"{error.measure} {error.value:.3g}, on the test window {error.reference:.3g}"
        alarms.append(Rule("decay.calibration").alarm(error.value, error.limit, text))
    return alarms
