"""Prometheus metrics of what `monitor` found in its newest window."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.contract.schema import Schema
from mlops_loop.prediction_log.window_summary import VERDICTS, WindowSummary, read_newest
from mlops_loop.serving.service import Service

SECONDS = 30.0  # between two looks into the prediction log
METRICS = {  # texts and labels
    "last_run_timestamp_seconds": ("When `monitor` last ran; 0 if it never did",),
    "window_end_timestamp_seconds": ("End of the newest window",),
    "verdict": ("1 if the newest window has this verdict", "verdict"),
    "drift_share": ("Share of the columns that drifted",),
    "column_score": ("Drift score of a column", "column"),
    "column_threshold": ("Drift threshold of a column", "column"),
    "metric": (
        "Metrics of the labelled predictions: value, interval, and that of the test window",
        "metric",
        "bound",
    ),
    "coverage": ("Share of the predictions with an outcome",),
    "rows": ("Predictions in the newest window",),
}
Sample = tuple[str, float | None, *tuple[str, ...]]  # of a metric, with the values of its labels


class NewestWindow(Collector):
    """Reads the newest window when it is asked; while the database is away, it stays as it was."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.summary: WindowSummary | None = None
        self.read_at = -SECONDS

    def collect(self) -> Iterable[GaugeMetricFamily]:
        writer = self.service.writer
        if time.monotonic() - self.read_at >= SECONDS and writer.database.available:
            self.read_at = time.monotonic()
            model = self.service.settings.mlflow_experiment_name
            with suppress(SQLAlchemyError):  # the writer logs it
                self.summary = read_newest(writer.engine, model)
        families = {
            name: GaugeMetricFamily(f"monitor_{name}", text, labels=labels)
            for name, (text, *labels) in METRICS.items()
        }
        for name, value, *labels in samples(self.summary, self.service.model.bundle.schema):
            if value is not None:
                families[name].add_metric(labels, value)
        return families.values()


def samples(summary: WindowSummary | None, schema: Schema) -> Iterator[Sample]:
    """Return the values of a window's metrics; None is one that it lacks."""
    yield "last_run_timestamp_seconds", summary.made.timestamp() if summary else 0
    if summary is None:
        return
    yield "window_end_timestamp_seconds", summary.end.timestamp()
    yield "drift_share", summary.drift_share
    yield "coverage", summary.coverage
    yield "rows", summary.rows
    for verdict in VERDICTS:
        yield "verdict", verdict in summary.verdicts, verdict
    for name, column in summary.drift.columns.items() if summary.drift else ():
        if name in schema.features or name == schema.prediction:  # no other becomes a label
            yield "column_score", column.score, name
            yield "column_threshold", column.threshold, name
    for name, bounds in summary.metrics.items():
        for bound, value in bounds.items():
            yield "metric", value, name, bound
