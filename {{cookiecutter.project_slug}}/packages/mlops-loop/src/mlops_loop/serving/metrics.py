"""Metrics: what Prometheus scrapes, added up over the server's processes."""

import os
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from mlops_loop.contract.schema import Schema
from mlops_loop.prediction_log.writer import Status
from mlops_loop.serving.hot_reload import Follower

TYPE = prometheus.CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set by `serve` before this is imported: each process has files there
SECONDS = 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30

REQUESTS = Counter("requests", "Requests answered", ["route", "method", "status"])
LATENCY = Histogram(
    "request_seconds", "From the request's first byte to the answer", ["route"], buckets=SECONDS
)
IN_FLIGHT = Gauge(
    "requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum"
)
ERRORS = Counter("errors", "Requests that were not answered, by kind", ["kind"])
ROWS = Counter("predicted_rows", "Rows scored", ["variant", "model_version"])
LABELS = Counter("predicted_labels", "Rows by the class they were given", ["variant", "label"])
SCORES = Counter(
    "predicted_deciles",
    "Rows by the tenth of the training sample that they fall in",
    ["variant", "decile"],
)
MODEL = Gauge(
    "model_info",
    "1 for the version that is served",
    ["variant", "model_version"],
    multiprocess_mode="livemax",
)
READY = Gauge("model_ready", "1 if predictions are answered", multiprocess_mode="livemin")
REFUSED = Gauge(
    "model_refused",
    "1 if a newer bundle cannot be served",
    ["variant"],
    multiprocess_mode="livemax",
)
SWAPS = Gauge(
    "model_swaps",
    "Bundles that took over since the start",
    ["variant"],
    multiprocess_mode="livemax",
)
LOADED = Gauge(
    "model_loaded_timestamp_seconds",
    "When the served bundle was made ready",
    ["variant"],
    multiprocess_mode="livemax",
)
PROMOTED = Gauge(
    "model_promoted_timestamp_seconds",
    "When the served bundle was promoted; NaN if it never was",
    ["variant"],
    multiprocess_mode="livemostrecent",
)
LOG_QUEUE = Gauge(
    "log_queue", "Requests that wait for the prediction log", multiprocess_mode="livesum"
)
LOG_UP = Gauge("log_up", "1 if the log's database takes predictions", multiprocess_mode="livemin")
SPOOL_ROWS = Gauge(
    "log_spool_rows", "Rows that wait on disk for the log's database", multiprocess_mode="livesum"
)
SPOOL_BYTES = Gauge("log_spool_bytes", "Size of what waits on disk", multiprocess_mode="livemax")

# What `monitor` found in its newest window. Each process reads it: the last one to do so is right.
NEWEST: Any = {"multiprocess_mode": "livemostrecent"}
VERDICTS = "drift", "quality", "decay"
BOUNDS = "value", "low", "high", "reference"
RUN = Gauge(
    "monitor_last_run_timestamp_seconds", "When `monitor` last ran; 0 if it never did", **NEWEST
)
WINDOW_END = Gauge("monitor_window_end_timestamp_seconds", "End of the newest window", **NEWEST)
VERDICT = Gauge(
    "monitor_verdict", "1 if that is the newest window's verdict", ["verdict"], **NEWEST
)
DRIFT = Gauge("monitor_drift_share", "Share of the columns that drifted", **NEWEST)
COLUMN = Gauge(
    "monitor_column_score", "How far a column is from the reference", ["column"], **NEWEST
)
LIMIT = Gauge(
    "monitor_column_threshold", "From which score on a column drifted", ["column"], **NEWEST
)
METRIC = Gauge(
    "monitor_metric",
    "How good the predictions were whose outcome is known: value, interval, and that of the test window",
    ["metric", "bound"],
    **NEWEST,
)
KNOWN: dict[str, set[str]] = {}  # metrics, and which of BOUNDS some window had
COVERAGE = Gauge("monitor_coverage", "Share of the predictions whose outcome is known", **NEWEST)
WINDOW_ROWS = Gauge("monitor_rows", "Predictions in the newest window", **NEWEST)


def predicted(
    variant: str, version: str, outputs: list[Any], scores: np.ndarray, facts: dict[str, Any]
) -> None:
    """Count the rows of a request, their classes and where their scores lie."""
    ROWS.labels(variant, version).inc(len(outputs))
    if facts["classes"]:
        for label, count in Count(output.label for output in outputs).items():
            LABELS.labels(variant, label).inc(count)
    if edges := facts.get("deciles"):
        place = facts["classes"].index(facts["positive"]) if facts["classes"] else 0
        counts = np.bincount(np.searchsorted(edges, scores[:, place]))
        for decile in np.flatnonzero(counts).tolist():
            SCORES.labels(variant, decile + 1).inc(int(counts[decile]))


def state(followers: Mapping[str, Follower], log: Status, ready: bool) -> None:
    """Set the gauges of this process."""
    READY.set(ready)
    for variant, one in followers.items():
        REFUSED.labels(variant).set(bool(one.refused))
        SWAPS.labels(variant).set(one.swaps)
        LOADED.labels(variant).set(one.since)
        PROMOTED.labels(variant).set(promoted(one.model.bundle.promotion) if one.model else nan)
        for version in tuple(one.versions):  # a thread may add to them
            MODEL.labels(variant, version).set(
                one.model is not None and version == one.model.version
            )
    LOG_QUEUE.set(log.queue)
    LOG_UP.set(log.answers)
    SPOOL_ROWS.set(log.spool_rows)
    SPOOL_BYTES.set(log.spool_bytes)


def promoted(promotion: Mapping[str, Any]) -> float:
    """Return when a bundle was promoted, in seconds; NaN if it never was, or nobody knows."""
    try:
        return datetime.fromisoformat(promotion["promoted_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return nan


def found(made: datetime, end: datetime, summary: Mapping[str, Any], schema: Schema) -> None:
    """Set the gauges of what `monitor` found in its newest window, as its summary has it.

    Where it found nothing this time, they are NaN: no value of another window may stay.
    """
    RUN.set(made.timestamp())
    WINDOW_END.set(end.timestamp())
    for name in VERDICTS:
        VERDICT.labels(name).set(name in (summary.get("verdicts") or ()))
    DRIFT.set(number(summary, "drift", "share"))
    for name in (*schema.features, schema.prediction):  # and no other: a label for each
        COLUMN.labels(name).set(number(summary, "drift", "columns", name, "score"))
        LIMIT.labels(name).set(number(summary, "drift", "columns", name, "threshold"))
    for name, values in measured(summary).items():
        KNOWN.setdefault(name, set()).update(values)
    for name, bounds in KNOWN.items():
        for bound in bounds:
            METRIC.labels(name, bound).set(measured(summary).get(name, {}).get(bound, nan))
    COVERAGE.set(number(summary, "performance", "coverage"))
    WINDOW_ROWS.set(number(summary, "rows"))


def measured(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the metrics of the labelled predictions, each with those of BOUNDS that it has."""
    part = summary.get("performance") or {}
    metrics = (part.get("metrics") or {}) | {"calibration_error": part.get("calibration_error")}
    given = {
        name: {bound: number(facts, bound) for bound in BOUNDS} for name, facts in metrics.items()
    }
    filled = {name: {k: v for k, v in values.items() if v == v} for name, values in given.items()}
    return {name: values for name, values in filled.items() if "value" in values}


def number(facts: Any, *place: str) -> float:
    """Return the number that stands at a place in nested mappings; NaN if there is none."""
    for key in place:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return float(facts) if isinstance(facts, int | float) else nan


def collect() -> Iterable[prometheus.Metric]:
    """Return all metrics, added up over the processes."""
    return registry().collect()


def exposition() -> bytes:
    """Return all metrics as Prometheus reads them."""
    return prometheus.generate_latest(registry())


def registry() -> prometheus.CollectorRegistry:
    """Return what holds the metrics of this process, or of all that serve together."""
    if FOLDER not in os.environ:
        return prometheus.REGISTRY
    folder = Path(os.environ[FOLDER])
    for path in folder.glob("gauge_live*_*.db"):  # of processes that were killed
        if not alive(number := int(path.stem.rpartition("_")[2])):
            forget(number)
    together = prometheus.CollectorRegistry()
    MultiProcessCollector(together, str(folder))  # type: ignore[no-untyped-call]
    return together


def forget(number: int) -> None:
    """Leave out the gauges of a process, by its id, that serves no more."""
    mark_process_dead(number, os.environ[FOLDER])  # type: ignore[no-untyped-call]


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
