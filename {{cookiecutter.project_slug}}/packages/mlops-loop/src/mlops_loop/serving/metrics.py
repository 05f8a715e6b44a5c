"""Prometheus metrics: of the server, added up over its processes, and of the newest window."""

import os
import time
from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, partial
from math import nan
from operator import attrgetter

import msgspec
import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.window_summary import VERDICTS, WindowSummary, read_newest
from mlops_loop.prediction_log.writing.writer import Writer
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Floats
from mlops_loop.serving.hot_reload import Follower

# `serve` sets it before this module is imported: each process has files there.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WINDOW_SECONDS = 30.0  # between two looks for the newest window
LABEL = attrgetter("label")  # of an answer
VARIANT = ["variant"]
VERSION = ["variant", "model_version"]
Samples = Mapping[tuple[str, ...], float | None]  # values by those of the labels


def gauge(name: str, text: str, mode: str, *labels: str) -> Gauge:
    """Return a gauge; `mode` says how the values of several processes become one."""
    return Gauge(name, text, labels, multiprocess_mode=f"live{mode}")  # type: ignore[arg-type]


REQUESTS = Counter("requests", "Requests answered", ["route", "method", "status"])
LATENCY = Histogram("request_seconds", "Until the answer", ["route"], buckets=SECONDS)
IN_FLIGHT = gauge("requests_in_flight", "Requests that are being answered", "sum")
ERRORS = Counter("errors", "Requests that were not answered, by kind", ["kind"])
DERIVE_ERRORS = Counter("derive_errors", "Requests for which derive() failed", VARIANT)
ROWS = Counter("predicted_rows", "Rows scored", VERSION)
LABELS = Counter("predicted_labels", "Rows by predicted class", ["variant", "label"])
SCORES = Counter("predicted_deciles", "Rows by training decile", ["variant", "decile"])
MODEL = gauge("model_info", "1 for the version that is served", "max", *VERSION)
READY = gauge("model_ready", "1 if predictions are answered", "min")
REFUSED = gauge("model_refused", "1 if a newer bundle cannot be served", "max", *VARIANT)
SWAPS = gauge("model_swaps", "Bundles that took over since the start", "max", *VARIANT)
LOADED = gauge("model_loaded_timestamp_seconds", "When it was loaded", "max", *VARIANT)
PROMOTED = gauge("model_promoted_timestamp_seconds", "NaN if never", "mostrecent", *VARIANT)
LOG_QUEUE = gauge("log_queue", "Requests that wait for the prediction log", "sum")
LOG_UP = gauge("log_up", "1 if the log's database takes predictions", "min")
SPOOL_ROWS = gauge("log_spool_rows", "Rows that wait on disk for the log's database", "max")
SPOOL_BYTES = gauge("log_spool_bytes", "Size of what waits on disk", "max")


@cache
def child(counter: Counter, *labels: str | int) -> Counter:
    """Return the counter with these labels: ten times as fast as to look it up there."""
    return counter.labels(*labels)


def count_predictions(
    variant: str, bundle: Bundle, outputs: list[msgspec.Struct], scores: Floats
) -> None:
    """Count the rows of a request, by class and by decile of their scores."""
    schema = bundle.schema
    child(ROWS, variant, bundle.version).inc(len(outputs))
    if schema.classes:
        for label, count in Count(map(LABEL, outputs)).items():
            child(LABELS, variant, label).inc(count)
    if edges := bundle.manifest.deciles:
        place = schema.classes.index(schema.positive) if schema.positive else 0
        deciles = map(partial(bisect_left, edges), scores[:, place].tolist())
        for decile, count in Count(deciles).items():
            child(SCORES, variant, decile + 1).inc(count)


def set_state(followers: Mapping[str, Follower], writer: Writer) -> None:
    """Set the gauges of this process."""
    log = writer.status()
    READY.set(not writer.full)
    LOG_QUEUE.set(log.queue)
    LOG_UP.set(log.answers)
    SPOOL_ROWS.set(log.spool_rows)
    SPOOL_BYTES.set(log.spool_bytes)
    for variant, follower in followers.items():
        model = follower.model
        promoted = nan
        if model:
            with suppress(ValueError):  # it was not, or at an unknown time
                promoted = datetime.fromisoformat(model.bundle.promotion.promoted_at).timestamp()
        REFUSED.labels(variant).set(bool(follower.refused))
        SWAPS.labels(variant).set(follower.swaps)
        LOADED.labels(variant).set(follower.since)
        PROMOTED.labels(variant).set(promoted)
        for version in tuple(follower.versions):  # another thread may add to them
            MODEL.labels(variant, version).set(model is not None and version == model.version)


def exposition(more: Collector) -> bytes:
    """Return the metrics of all processes, and `more`, in Prometheus' text format."""
    registry = prometheus.CollectorRegistry()
    registry.register(more)
    if FOLDER in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(prometheus.REGISTRY)
    return prometheus.generate_latest(registry)


class NewestWindow(Collector):
    """What `monitor` found in its newest window; while the database is away, it stays as it was."""

    def __init__(self, writer: Writer, model: str) -> None:
        self.writer = writer
        self.model = model
        self.summary: WindowSummary | None = None
        self.read_at = -WINDOW_SECONDS

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() - self.read_at >= WINDOW_SECONDS and self.writer.database.available:
            self.read_at = time.monotonic()
            with suppress(SQLAlchemyError):  # the writer logs it
                self.summary = read_newest(self.writer.engine, self.model)
        made = self.summary.made.timestamp() if self.summary else 0
        text = "When `monitor` last ran; 0 if it never did"
        yield family("last_run_timestamp_seconds", text, {(): made})
        if self.summary:
            yield from families(self.summary)


def family(name: str, text: str, values: Samples, *labels: str) -> GaugeMetricFamily:
    found = GaugeMetricFamily(f"monitor_{name}", text, labels=labels)
    for of_labels, value in values.items():
        if value is not None:
            found.add_metric(of_labels, value)
    return found


def families(summary: WindowSummary) -> Iterator[GaugeMetricFamily]:
    end = summary.end.timestamp()
    yield family("window_end_timestamp_seconds", "End of the newest window", {(): end})
    yield family("rows", "Predictions in the newest window", {(): summary.rows})
    text = "Share of the predictions with an outcome"
    yield family("coverage", text, {(): summary.coverage})
    yield family("drift_share", "Share of the columns that drifted", {(): summary.drift_share})
    verdicts: Samples = {(name,): name in summary.verdicts for name in VERDICTS}
    yield family("verdict", "1 if the newest window has this verdict", verdicts, "verdict")
    drift = summary.drift.columns if summary.drift else {}
    scores: Samples = {(name,): column.score for name, column in drift.items()}
    yield family("column_score", "Drift score of a column", scores, "column")
    thresholds: Samples = {(name,): column.threshold for name, column in drift.items()}
    yield family("column_threshold", "Drift threshold of a column", thresholds, "column")
    bounds: Samples = {
        (name, bound): value
        for name, values in summary.metrics.items()
        for bound, value in values.items()
    }
    text = "Metrics of the labelled predictions: value, interval, and that of the test window"
    yield family("metric", text, bounds, "metric", "bound")
