"""Evaluate a window: drift, data quality and performance, and the alarms that follow."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from mlops_loop.base.files import REPORTS
from mlops_loop.base.params.monitor import Monitor
from mlops_loop.base.params.params_file import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.monitoring import data_quality, drift, performance
from mlops_loop.monitoring.monitoring_window import MonitoringWindow, logged_features, window_name
from mlops_loop.monitoring.rules import Findings
from mlops_loop.prediction_log.window_summary import (
    VERDICTS,
    DataQuality,
    Drift,
    WindowSummary,
)
from mlops_loop.scoring.bundle import HELD_OUT, REFERENCE, Bundle

FOLDER = REPORTS / "monitor"


def evaluate(window: MonitoringWindow, bundle: Bundle, params: Params, model: str) -> WindowSummary:
    """Return what the window shows of the champion's traffic; `model` is its registered name."""
    findings = Findings()
    name = window_name(window.start, window.end)
    held_out = tables.read_table(bundle.folder / HELD_OUT)
    limit = params.monitor.quality.max_refused
    refused = data_quality.check_rejected(window, limit, findings)
    volume = data_quality.check_volume(window, params.monitor, findings)
    sampled = len(window.answered.facts)
    if others := window.others:
        of = f"{others:,} of {others + sampled:,}"
        findings.not_judged["other_contract"] = f"{of} are to the question of another contract"
    quality = DataQuality()
    drifted = estimate = None
    if sampled < params.monitor.min_rows:
        least = params.monitor.min_rows
        few = f"{sampled:,} predictions are too few: monitor.min_rows asks for {least}"
        findings.not_judged |= dict.fromkeys(("drift", "quality.nulls", "quality.unseen"), few)
    else:
        quality, drifted = check_inputs(window, held_out, bundle, params.monitor, findings)
        estimate = performance.estimate(window.answered.facts["output"], held_out, bundle, params)
    measured = performance.check(window, held_out, bundle, params, findings)
    fired = {alarm.verdict for alarm in findings.alarms}
    return WindowSummary(
        window=name,
        start=window.start,
        end=window.end,
        made=datetime.now(UTC),
        model=model,
        model_version=bundle.version,
        rows=window.rows,
        sampled=sampled,
        requests=window.requests,
        versions=window.versions,
        verdicts=[verdict for verdict in VERDICTS if verdict in fired],
        alarms=findings.alarms,
        not_judged=findings.not_judged,
        quality=quality.model_copy(update={"refused": refused, "volume": volume}),
        drift=drifted,
        performance=measured,
        estimate=estimate,
        report=(FOLDER / name / "index.html").as_posix(),
    )


def check_inputs(
    window: MonitoringWindow,
    held_out: pd.DataFrame,
    bundle: Bundle,
    params: Monitor,
    findings: Findings,
) -> tuple[DataQuality, Drift]:
    """Check features and predictions: drift, missing values, unknown categories."""
    schema = bundle.schema
    limits = calibrated_limits(window, held_out, bundle, params)
    current, known = compared_tables(window, bundle)
    columns = drift.compare(current, known, schema, limits[drift.DISTANCE].to_dict())
    drift.check(columns, params.drift_columns, findings)
    names = logged_features(schema)
    quality = data_quality.check_columns(
        current[names],
        known[names],
        schema,
        limits[drift.NULLS],
        params.quality.max_unseen,
        findings,
    )
    if hidden := [name for name in schema.features if name not in names]:
        why = f"the log holds no pii columns, so these are not compared: {', '.join(hidden)}"
        findings.not_judged["pii"] = why
    share = sum(column.drifted for column in columns.values()) / len(columns)
    return quality, Drift(share=share, columns=columns)


def calibrated_limits(
    window: MonitoringWindow, held_out: pd.DataFrame, bundle: Bundle, params: Monitor
) -> pd.Series:
    """Return how far each column may be, and by how much more of it may be missing.

    The prediction's limits come from the test window: on rows that it learned from, a model is
    surer of itself.
    """
    schema = bundle.schema
    numeric = drift.numeric_columns(schema)
    reference = tables.read_table(bundle.folder / REFERENCE)
    predicted = held_out.assign(**{schema.prediction: predictions_on(held_out, schema)})
    found = []
    for table, names in ((reference, logged_features(schema)), (predicted, [schema.prediction])):
        found.append(
            drift.null_distribution(
                {name: drift.encode(table[name], numeric[name]) for name in names},
                table[schema.timestamp] if schema.timestamp else None,
                len(window.answered.facts),
                (window.end - window.start) / timedelta(days=1),
                params.resamples,
            )
        )
    quiet = pd.concat(found, axis="columns")
    least = pd.Series(params.min_distance, index=quiet.columns)
    least[drift.NULLS] = params.quality.max_nulls
    return drift.thresholds(quiet, least, params.false_alarms)


def predictions_on(held_out: pd.DataFrame, schema: Schema) -> pd.Series:
    _, scores = held_out_scores(held_out, schema)
    return pd.Series(tasks.of(schema).predictions(scores, schema))


def compared_tables(window: MonitoringWindow, bundle: Bundle) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the window's features and the reference's, each with predictions."""
    schema = bundle.schema
    task = tasks.of(schema)
    reference = tables.read_table(bundle.folder / REFERENCE)
    held_out = tables.read_table(bundle.folder / HELD_OUT)
    outputs = window.answered.facts["output"]
    predicted = [task.logged_prediction(output, schema) for output in outputs]
    sampled = np.random.default_rng(0).choice(predictions_on(held_out, schema), len(reference))
    return (
        window.answered.features.assign(**{schema.prediction: predicted}),
        reference.assign(**{schema.prediction: sampled}),
    )
