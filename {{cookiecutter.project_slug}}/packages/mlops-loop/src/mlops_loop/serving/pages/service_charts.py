"""The status page's charts of the server itself."""

import time
from collections.abc import Sequence
from html import escape

from mlops_loop.serving.pages.charts import Figure, legend, line
from mlops_loop.serving.pages.formats import format_number
from mlops_loop.serving.pages.recorder import HISTORY_SECONDS
from mlops_loop.serving.pages.samples import Point, Sample, to_points

CHARTS = (  # title, unit, fields of Point with their names
    ("Requests a second", "", {"requests": "requests"}),
    ("Requests not answered", "%", {"failed": "failed (5xx)", "refused": "refused (4xx)"}),
    ("Time to answer", "ms", {"p50": "half", "p95": "95 %", "p99": "99 %"}),
    ("Rows predicted a second", "", {"rows": "rows"}),
    ("Requests in flight", "", {"in_flight": "in flight"}),
    ("Rows on disk that wait for the log", "", {"waiting": "rows"}),
)


def service_charts(samples: Sequence[Sample]) -> str:
    """Return the charts; the last sample is of this moment."""
    points = to_points(samples)
    now = points[-1] if points else None
    return "".join(trend(title, unit, points, now, names) for title, unit, names in CHARTS)


def trend(
    title: str, unit: str, points: Sequence[Point], now: Point | None, names: dict[str, str]
) -> str:
    """Return the chart of some fields of the points over the last hour."""
    shown = thinned(points, now)
    end = now.time if now else time.time()
    xs = [1 - (end - point.time) / HISTORY_SECONDS for point in shown]
    lines = {field: [getattr(point, field) for point in shown] for field in names}
    top = max((v for values in lines.values() for v in values if v is not None), default=0) or 1
    classes = {field: f"line{number}" for number, field in enumerate(names)}
    paths = ""
    for field in reversed(names):  # the first one on top
        scaled = [None if value is None else value / top for value in lines[field]]
        paths += line(xs, scaled, classes[field])
    texts = [format_number(getattr(now, field) if now else None, unit) for field in names]
    current = " <small>/</small> ".join(escape(text.removesuffix(f" {unit}")) for text in texts)
    return Figure(
        title,
        now=f"{current} <small>{escape(unit)}</small>",
        label=", ".join(f"{name} {t}" for name, t in zip(names.values(), texts, strict=True)),
        paths=paths,
        start="an hour ago",
        end="now",
        bottom="0",
        top=format_number(top, unit),
        legend=legend({classes[field]: name for field, name in names.items()}),
    ).html()


def thinned(points: Sequence[Point], now: Point | None) -> list[Point]:
    """Return every other point of the last hour, and the newest one."""
    end = now.time if now else time.time()
    recent = [point for point in points if point.time >= end - HISTORY_SECONDS][::2]
    return [*recent, now] if now else recent
