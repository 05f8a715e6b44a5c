"""Prometheus metrics of the server, added up over its processes."""

import os
from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, partial
from math import nan
from operator import attrgetter
from pathlib import Path

import msgspec
import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from mlops_loop.prediction_log.writing.writer import Writer
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Floats
from mlops_loop.serving.hot_reload import Follower

# `serve` sets it before this module is imported: each process has files there.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LABEL = attrgetter("label")  # of an answer
VARIANT = ["variant"]
VERSION = ["variant", "model_version"]


def gauge(name: str, text: str, mode: str, *labels: str) -> Gauge:
    """Return a gauge; `mode` says how the values of several processes become one."""
    return Gauge(name, text, labels, multiprocess_mode=f"live{mode}")  # type: ignore[arg-type]


REQUESTS = Counter("requests", "Requests answered", ["route", "method", "status"])
LATENCY = Histogram(
    "request_seconds", "From the request's first byte to the answer", ["route"], buckets=SECONDS
)
IN_FLIGHT = gauge("requests_in_flight", "Requests that are being answered", "sum")
ERRORS = Counter("errors", "Requests that were not answered, by kind", ["kind"])
DERIVE_ERRORS = Counter(
    "derive_errors", "Requests for which the project's derive() failed", VARIANT
)
ROWS = Counter("predicted_rows", "Rows scored", VERSION)
LABELS = Counter("predicted_labels", "Rows by predicted class", ["variant", "label"])
SCORES = Counter(
    "predicted_deciles", "Rows by decile of the training sample's scores", ["variant", "decile"]
)
MODEL = gauge("model_info", "1 for the version that is served", "max", *VERSION)
READY = gauge("model_ready", "1 if predictions are answered", "min")
REFUSED = gauge("model_refused", "1 if a newer bundle cannot be served", "max", *VARIANT)
SWAPS = gauge("model_swaps", "Bundles that took over since the start", "max", *VARIANT)
LOADED = gauge(
    "model_loaded_timestamp_seconds", "When the served bundle was loaded", "max", *VARIANT
)
PROMOTED = gauge(
    "model_promoted_timestamp_seconds",
    "When the served bundle was promoted; NaN if it never was",
    "mostrecent",
    *VARIANT,
)
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
        REFUSED.labels(variant).set(bool(follower.refused))
        SWAPS.labels(variant).set(follower.swaps)
        LOADED.labels(variant).set(follower.since)
        PROMOTED.labels(variant).set(promotion_time(model.bundle) if model else nan)
        for version in tuple(follower.versions):  # another thread may add to them
            MODEL.labels(variant, version).set(model is not None and version == model.version)


def promotion_time(bundle: Bundle) -> float:
    """Return when a bundle was promoted, in seconds; NaN if it was not, or that is unknown."""
    try:
        return datetime.fromisoformat(bundle.promotion.promoted_at).timestamp()
    except ValueError:
        return nan


def exposition(more: Collector) -> bytes:
    """Return the metrics of all processes, and `more`, in Prometheus' text format."""
    registry = prometheus.CollectorRegistry()
    registry.register(more)
    if FOLDER in os.environ:
        forget_killed(Path(os.environ[FOLDER]))
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(prometheus.REGISTRY)
    return prometheus.generate_latest(registry)


def forget_killed(folder: Path) -> None:
    """Leave out the gauges of processes that were killed, and could not do so themselves."""
    for path in folder.glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        try:
            with suppress(PermissionError):  # it is another user's, and there
                os.kill(process, 0)
        except ProcessLookupError:
            forget_process(process)


def forget_process(number: int) -> None:
    """Leave out the gauges of a process that serves no more."""
    mark_process_dead(number)  # type: ignore[no-untyped-call]
