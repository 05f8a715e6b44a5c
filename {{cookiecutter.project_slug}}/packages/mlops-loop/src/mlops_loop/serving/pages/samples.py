"""Samples of the metrics, and the rates and latencies between two of them."""

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from mlops_loop.serving import metrics

RATE_SAMPLES = 6  # over which a rate is taken
COUNTED_ROUTES = re.compile(r"/v1/(predict|outcomes)|/v2/models/.*/infer")


class Sample(NamedTuple):
    """What all processes of the server had counted at some time."""

    time: float
    requests: float
    failed: float  # 5xx
    refused: float  # 4xx
    rows: float
    in_flight: float
    waiting: float  # rows on disk, for the log's database
    buckets: dict[float, float]  # seconds: how many requests took no longer


class Point(NamedTuple):
    """What happened up to some time; None where there were no requests."""

    time: float
    requests: float  # a second
    failed: float | None  # shares of the requests
    refused: float | None
    p50: float | None  # milliseconds
    p95: float | None
    p99: float | None
    rows: float  # a second
    in_flight: float
    waiting: float


def take_sample() -> Sample:
    """Return what the metrics count now."""
    counts = defaultdict[str, float](float)
    buckets = defaultdict[float, float](float)
    for family in metrics.collect():
        for name, labels, value, *_ in family.samples:
            add(counts, buckets, name, labels, value)
    return Sample(
        time=time.time(),
        requests=counts["requests"],
        failed=counts["5"],
        refused=counts["4"],
        rows=counts["rows"],
        in_flight=counts["requests_in_flight"],
        waiting=counts["log_spool_rows"],
        buckets=dict(sorted(buckets.items())),
    )


def add(
    counts: dict[str, float],
    buckets: dict[float, float],
    name: str,
    labels: dict[str, str],
    value: float,
) -> None:
    """Add one of Prometheus' samples."""
    if name == "predicted_rows_total" and labels["variant"] != "shadow":
        counts["rows"] += value
    elif name in ("requests_in_flight", "log_spool_rows"):
        counts[name] += value
    elif not COUNTED_ROUTES.fullmatch(labels.get("route", "")):
        return
    elif name == "requests_total":
        counts["requests"] += value
        counts[labels["status"][0]] += value
    elif name == "request_seconds_bucket":
        buckets[float(labels["le"])] += value


def to_points(samples: Sequence[Sample]) -> list[Point]:
    """Return what happened up to each sample, as rates over RATE_SAMPLES samples."""
    return [
        to_point(samples[max(0, place - RATE_SAMPLES)], samples[place])
        for place in range(1, len(samples))
    ]


def to_point(old: Sample, new: Sample) -> Point:
    """Return what happened between two samples."""
    seconds = max(new.time - old.time, 0.001)
    requests = new.requests - old.requests
    counts = {limit: count - old.buckets.get(limit, 0) for limit, count in new.buckets.items()}
    return Point(
        time=new.time,
        requests=requests / seconds,
        failed=(new.failed - old.failed) / requests if requests else None,
        refused=(new.refused - old.refused) / requests if requests else None,
        p50=quantile_ms(counts, 0.5),
        p95=quantile_ms(counts, 0.95),
        p99=quantile_ms(counts, 0.99),
        rows=(new.rows - old.rows) / seconds,
        in_flight=new.in_flight,
        waiting=new.waiting,
    )


def quantile_ms(counts: dict[float, float], share: float) -> float | None:
    """Return the milliseconds in which a share of the requests was answered.

    It interpolates in the histogram's bucket, as Prometheus' `histogram_quantile` does.
    """
    wanted = share * max(counts.values(), default=0)
    if not wanted:
        return None
    lower = 0.0
    before = 0.0
    for limit, count in counts.items():
        if count >= wanted:
            place = (wanted - before) / (count - before)
            return 1000 * (lower + (limit - lower) * place if limit < inf else lower)
        lower = limit
        before = count
    return None
