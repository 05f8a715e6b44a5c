"""Prometheus metrics of what `monitor` found in its newest window.

Each process of the server reads it from the prediction log: the last one to do so is right.
"""

from math import nan

from prometheus_client import Gauge
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.contract.schema import Schema
from mlops_loop.prediction_log.window_summary import (
    VERDICTS,
    Bounds,
    ColumnDrift,
    WindowSummary,
    read_newest,
)
from mlops_loop.serving.metrics import NEWEST
from mlops_loop.serving.service import Service

RUN = Gauge(
    "monitor_last_run_timestamp_seconds",
    "When `monitor` last ran; 0 if it never did",
    multiprocess_mode=NEWEST,
)
WINDOW_END = Gauge(
    "monitor_window_end_timestamp_seconds", "End of the newest window", multiprocess_mode=NEWEST
)
VERDICT = Gauge(
    "monitor_verdict",
    "1 if the newest window has this verdict",
    ["verdict"],
    multiprocess_mode=NEWEST,
)
DRIFT = Gauge("monitor_drift_share", "Share of the columns that drifted", multiprocess_mode=NEWEST)
COLUMN = Gauge(
    "monitor_column_score", "Drift score of a column", ["column"], multiprocess_mode=NEWEST
)
LIMIT = Gauge(
    "monitor_column_threshold", "Drift threshold of a column", ["column"], multiprocess_mode=NEWEST
)
METRIC = Gauge(
    "monitor_metric",
    "Metrics of the labelled predictions: value, interval, and that of the test window",
    ["metric", "bound"],
    multiprocess_mode=NEWEST,
)
COVERAGE = Gauge(
    "monitor_coverage", "Share of the predictions with an outcome", multiprocess_mode=NEWEST
)
WINDOW_ROWS = Gauge("monitor_rows", "Predictions in the newest window", multiprocess_mode=NEWEST)
NOT_COMPARED = ColumnDrift()
SEEN: dict[str, set[str]] = {}  # metrics, and which of BOUNDS some window had


def refresh(service: Service) -> None:
    """Set the gauges to the newest window; while the database is away, they stay as they are."""
    model = service.settings.mlflow_experiment_name
    try:
        summary = read_newest(service.writer.engine, model)
    except SQLAlchemyError:  # the writer has logged it
        return
    if summary:
        set_window(summary, service.model.bundle.schema)


def set_window(summary: WindowSummary, schema: Schema) -> None:
    """Set the gauges. What this window lacks becomes NaN: no value of another window may stay."""
    RUN.set(summary.made.timestamp())
    WINDOW_END.set(summary.end.timestamp())
    for name in VERDICTS:
        VERDICT.labels(name).set(name in summary.verdicts)
    DRIFT.set(or_nan(summary.drift_share))
    columns = summary.drift.columns if summary.drift else {}
    for name in (*schema.features, schema.prediction):  # and no other: a label for each
        column = columns.get(name, NOT_COMPARED)
        COLUMN.labels(name).set(or_nan(column.score))
        LIMIT.labels(name).set(or_nan(column.threshold))
    set_metrics(summary.metrics)
    COVERAGE.set(or_nan(summary.coverage))
    WINDOW_ROWS.set(or_nan(summary.rows))


def set_metrics(metrics: dict[str, Bounds]) -> None:
    for name, values in metrics.items():
        SEEN.setdefault(name, set()).update(values)
    for name, bounds in SEEN.items():
        for bound in bounds:
            METRIC.labels(name, bound).set(metrics.get(name, {}).get(bound, nan))


def or_nan(value: float | None) -> float:
    return nan if value is None else float(value)
