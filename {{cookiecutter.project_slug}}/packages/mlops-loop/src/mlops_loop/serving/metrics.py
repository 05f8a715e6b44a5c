"""Prometheus metrics of the server, added up over its processes."""

import os
from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache, partial
from math import nan
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec
import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from mlops_loop.prediction_log.writing.writer import Status
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Floats
from mlops_loop.serving.hot_reload import Follower

TYPE = prometheus.CONTENT_TYPE_LATEST
# `serve` sets it before this module is imported: each process has files there.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# How the gauges of several processes become one value.
SUM: Final = "livesum"
MAX: Final = "livemax"
MIN: Final = "livemin"
NEWEST: Final = "livemostrecent"
LABEL = attrgetter("label")  # of an answer
VARIANT = ["variant"]
VERSION = ["variant", "model_version"]

REQUESTS = Counter("requests", "Requests answered", ["route", "method", "status"])
LATENCY = Histogram(
    "request_seconds", "From the request's first byte to the answer", ["route"], buckets=SECONDS
)
IN_FLIGHT = Gauge("requests_in_flight", "Requests that are being answered", multiprocess_mode=SUM)
ERRORS = Counter("errors", "Requests that were not answered, by kind", ["kind"])
DERIVE_ERRORS = Counter(
    "derive_errors", "Requests for which the project's derive() failed", VARIANT
)
ROWS = Counter("predicted_rows", "Rows scored", VERSION)
LABELS = Counter("predicted_labels", "Rows by predicted class", ["variant", "label"])
SCORES = Counter(
    "predicted_deciles", "Rows by decile of the training sample's scores", ["variant", "decile"]
)
MODEL = Gauge("model_info", "1 for the version that is served", VERSION, multiprocess_mode=MAX)
READY = Gauge("model_ready", "1 if predictions are answered", multiprocess_mode=MIN)
REFUSED = Gauge(
    "model_refused", "1 if a newer bundle cannot be served", VARIANT, multiprocess_mode=MAX
)
SWAPS = Gauge(
    "model_swaps", "Bundles that took over since the start", VARIANT, multiprocess_mode=MAX
)
LOADED = Gauge(
    "model_loaded_timestamp_seconds",
    "When the served bundle was loaded",
    VARIANT,
    multiprocess_mode=MAX,
)
PROMOTED = Gauge(
    "model_promoted_timestamp_seconds",
    "When the served bundle was promoted; NaN if it never was",
    VARIANT,
    multiprocess_mode=NEWEST,
)
LOG_QUEUE = Gauge("log_queue", "Requests that wait for the prediction log", multiprocess_mode=SUM)
LOG_UP = Gauge("log_up", "1 if the log's database takes predictions", multiprocess_mode=MIN)
SPOOL_ROWS = Gauge(
    "log_spool_rows", "Rows that wait on disk for the log's database", multiprocess_mode=MAX
)
SPOOL_BYTES = Gauge("log_spool_bytes", "Size of what waits on disk", multiprocess_mode=MAX)


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


def set_state(followers: Mapping[str, Follower], log: Status, ready: bool) -> None:
    """Set the gauges of this process."""
    READY.set(ready)
    for variant, follower in followers.items():
        set_model_state(variant, follower)
    LOG_QUEUE.set(log.queue)
    LOG_UP.set(log.answers)
    SPOOL_ROWS.set(log.spool_rows)
    SPOOL_BYTES.set(log.spool_bytes)


def set_model_state(variant: str, follower: Follower) -> None:
    model = follower.model
    REFUSED.labels(variant).set(bool(follower.refused))
    SWAPS.labels(variant).set(follower.swaps)
    LOADED.labels(variant).set(follower.since)
    PROMOTED.labels(variant).set(
        promotion_time(model.bundle.promotion.promoted_at) if model else nan
    )
    for version in tuple(follower.versions):  # a thread may add to them
        MODEL.labels(variant, version).set(model is not None and version == model.version)


def promotion_time(promoted_at: str) -> float:
    """Return when a bundle was promoted, in seconds; NaN if it was not, or that is unknown."""
    try:
        return datetime.fromisoformat(promoted_at).timestamp()
    except ValueError:
        return nan


def collect() -> Iterable[prometheus.Metric]:
    """Return all metrics, added up over the processes."""
    return registry().collect()


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return prometheus.generate_latest(registry())


def registry() -> prometheus.CollectorRegistry:
    """Return the registry of this process, or of all that serve together."""
    if FOLDER not in os.environ:
        return prometheus.REGISTRY
    folder = Path(os.environ[FOLDER])
    for path in folder.glob("gauge_live*_*.db"):  # of processes that were killed
        process = int(path.stem.rpartition("_")[2])
        if not is_alive(process):
            forget_process(process)
    together = prometheus.CollectorRegistry()
    MultiProcessCollector(together, str(folder))  # type: ignore[no-untyped-call]
    return together


def forget_process(number: int) -> None:
    """Leave out the gauges of a process that serves no more."""
    mark_process_dead(number, os.environ[FOLDER])  # type: ignore[no-untyped-call]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
