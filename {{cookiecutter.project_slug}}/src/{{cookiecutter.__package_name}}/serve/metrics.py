"""Metrics: what Prometheus scrapes, added up over the server's processes."""

import os
from collections import Counter as Count
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from .follow import Follower
from .writer import Status

TYPE = prometheus.CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set by `serve` before this is imported: each process has files there
SECONDS = 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30

REQUESTS = Counter("requests", "Requests answered", ["route", "method", "status"])
LATENCY = Histogram(
    "request_seconds", "From the request's first byte to the answer", ["route"], buckets=SECONDS
)
IN_FLIGHT = Gauge("requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum")
ERRORS = Counter("errors", "Requests that were not answered, by kind", ["kind"])
ROWS = Counter("predicted_rows", "Rows scored", ["variant", "model_version"])
LABELS = Counter("predicted_labels", "Rows by the class they were given", ["variant", "label"])
SCORES = Counter(
    "predicted_deciles", "Rows by the tenth of the training sample that they fall in", ["variant", "decile"]
)
MODEL = Gauge(
    "model_info",
    "1 for the version that is served",
    ["variant", "model_version"],
    multiprocess_mode="livemax",
)
READY = Gauge("model_ready", "1 if predictions are answered", multiprocess_mode="livemin")
REFUSED = Gauge(
    "model_refused", "1 if a newer bundle cannot be served", ["variant"], multiprocess_mode="livemax"
)
SWAPS = Gauge(
    "model_swaps", "Bundles that took over since the start", ["variant"], multiprocess_mode="livemax"
)
LOADED = Gauge(
    "model_loaded_timestamp_seconds",
    "When the served bundle was made ready",
    ["variant"],
    multiprocess_mode="livemax",
)
LOG_QUEUE = Gauge("log_queue", "Requests that wait for the prediction log", multiprocess_mode="livesum")
LOG_UP = Gauge("log_up", "1 if the log's database takes predictions", multiprocess_mode="livemin")
SPOOL_ROWS = Gauge(
    "log_spool_rows", "Rows that wait on disk for the log's database", multiprocess_mode="livesum"
)
SPOOL_BYTES = Gauge("log_spool_bytes", "Size of what waits on disk", multiprocess_mode="livemax")


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
        for version in tuple(one.versions):  # a thread may add to them
            MODEL.labels(variant, version).set(one.model is not None and version == one.model.version)
    LOG_QUEUE.set(log.queue)
    LOG_UP.set(log.answers)
    SPOOL_ROWS.set(log.spool_rows)
    SPOOL_BYTES.set(log.spool_bytes)


def exposition() -> bytes:
    """Return all metrics as Prometheus reads them."""
    if FOLDER not in os.environ:
        return prometheus.generate_latest()
    folder = Path(os.environ[FOLDER])
    for path in folder.glob("gauge_live*_*.db"):  # of processes that were killed
        if not alive(number := int(path.stem.rpartition("_")[2])):
            forget(number)
    registry = prometheus.CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry)


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
