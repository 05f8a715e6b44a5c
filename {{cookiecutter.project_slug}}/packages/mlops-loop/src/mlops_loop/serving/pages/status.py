"""Status: a page of what the server and the monitor tell, now and as trends, for those without Grafana."""

import logging
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.project import current_project
from mlops_loop.prediction_log.monitoring_windows import MonitoringWindow, read_windows
from mlops_loop.serving import metrics
from mlops_loop.serving.pages import model_page
from mlops_loop.serving.service import Service

PAUSE = 10  # seconds between two samples
SPAN = 3600  # seconds that are shown
RATE = 6  # samples over which a rate is taken
LOOK = 3  # samples between two looks at what the monitor found
WINDOWS = 12  # that are shown
COLUMNS = 5  # that are shown, those which drifted most
ASKED = re.compile(
    r"/v1/(predict|outcomes)|/v2/models/.*/infer"
)  # routes whose requests count here
WIDTH, HEIGHT = 300, 80  # of a picture, in units of its own
STYLE = model_page.STYLE + Path(__file__).with_name("status.css").read_text(encoding="utf-8")
LOGGER = logging.getLogger("uvicorn.error")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="15">
<title>Status: {name}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body>
<header>
<h1>Status: {name}</h1>
<nav><a href="./">Predict</a><a href="docs">API documentation</a><a href="metrics">Metrics</a></nav>
</header>
<main>
<section id="status" aria-label="State" data-state="{state}">
<p><span class="dot"></span>{said}</p>
<dl id="details">{details}</dl>
</section>
<section aria-labelledby="service">
<h2 id="service">The service, in the last hour</h2>
<div class="charts">{charts}</div>
</section>
<section aria-labelledby="monitor">
<h2 id="monitor">What the monitor found</h2>
{monitor}
</section>
</main>
<footer class="hint">As of {now}. The page loads itself again every 15 seconds.</footer>
</body></html>
"""
NEVER = (
    "<p>The monitor has not looked at the predictions of this model yet: <code>{command}</code></p>"
)


class Sample(NamedTuple):
    """What all processes of the server had counted at some time."""

    time: float
    requests: float
    failed: float  # for which the server is to blame
    refused: float  # for which the client is
    rows: float
    in_flight: float
    waiting: float  # rows on disk, for the log's database
    buckets: dict[float, float]  # seconds: how many requests took no longer


class Point(NamedTuple):
    """What happened up to some time; None where nobody asked."""

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


class Recorder:
    """Keeps samples of the metrics, and the monitor's last windows, in a thread of its own."""

    def __init__(self, service: Service) -> None:
        self.service, self.ended = service, threading.Event()
        self.samples: deque[Sample] = deque(maxlen=SPAN // PAUSE + RATE)
        self.windows: list[MonitoringWindow] = []
        self.thread = threading.Thread(target=self.run, daemon=True, name="status")

    def start(self) -> None:
        self.thread.start()

    def end(self) -> None:
        self.ended.set()
        self.thread.join(1)

    def run(self) -> None:
        number = 0
        while not self.ended.is_set():
            try:
                self.samples.append(sample())
                if number % LOOK == 0:
                    self.look()
            except Exception:  # of whatever kind: the next look may be better
                LOGGER.exception("the status is old")
            number += 1
            self.ended.wait(PAUSE)

    def look(self) -> None:
        """Read what the monitor found; while the database is away, what was known stays."""
        model = self.service.settings.mlflow_experiment_name
        try:
            self.windows = read_windows(self.service.writer.engine, model, WINDOWS)
        except SQLAlchemyError:  # the writer has said so
            return
        if self.windows:
            last = self.windows[-1]
            metrics.found(last.made, last.end, last.summary, self.service.model.bundle.schema)


def sample() -> Sample:
    """Return what the metrics say now."""
    counts, buckets = defaultdict[str, float](float), defaultdict[float, float](float)
    for family in metrics.collect():
        for name, labels, value, *_ in family.samples:
            if name == "predicted_rows_total" and labels["variant"] != "shadow":
                counts["rows"] += value
            elif name in ("requests_in_flight", "log_spool_rows"):
                counts[name] += value
            elif not ASKED.fullmatch(labels.get("route", "")):
                continue
            elif name == "requests_total":
                counts["requests"] += value
                counts[labels["status"][0]] += value
            elif name == "request_seconds_bucket":
                buckets[float(labels["le"])] += value
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


def point(old: Sample, new: Sample) -> Point:
    """Return what happened between two samples."""
    seconds, asked = max(new.time - old.time, 0.001), new.requests - old.requests
    counts = {limit: count - old.buckets.get(limit, 0) for limit, count in new.buckets.items()}
    return Point(
        time=new.time,
        requests=asked / seconds,
        failed=(new.failed - old.failed) / asked if asked else None,
        refused=(new.refused - old.refused) / asked if asked else None,
        p50=quantile(counts, 0.5),
        p95=quantile(counts, 0.95),
        p99=quantile(counts, 0.99),
        rows=(new.rows - old.rows) / seconds,
        in_flight=new.in_flight,
        waiting=new.waiting,
    )


def quantile(counts: dict[float, float], share: float) -> float | None:
    """Return the milliseconds in which a share of the requests was answered, as Prometheus estimates it."""
    wanted = share * max(counts.values(), default=0)
    if not wanted:
        return None
    below, before = 0.0, 0.0
    for limit, count in counts.items():
        if count >= wanted:
            place = (wanted - before) / (count - before)
            return 1000 * (below + (limit - below) * place if limit < inf else below)
        below, before = limit, count
    return None


def points(samples: Sequence[Sample]) -> list[Point]:
    """Return what happened around each sample, as rates over RATE samples."""
    return [
        point(samples[max(0, place - RATE)], samples[place]) for place in range(1, len(samples))
    ]


def shown(value: float | None, unit: str = "") -> str:
    """Return a number as text: shares as percentages, others with three digits."""
    if value is None or not isfinite(value):
        return "-"
    if unit == "%":
        return f"{100 * value:.3g} %"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def ago(seconds: float) -> str:
    """Return an age in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now" if seconds < 60 else "a minute ago"


# Pictures: the places of values are numbers of ours, so that nothing in an SVG needs to be escaped.


def line(xs: Sequence[float], ys: Sequence[float | None], kind: str) -> str:
    """Return a line through values in 0 to 1, with gaps where there are none; a lone one is a dot."""
    parts, part = list[str](), list[str]()
    for x, y in [*zip(xs, ys, strict=True), (0.0, None)]:
        if y is not None and isfinite(y):
            part.append(f"{x * WIDTH:.1f} {(1 - y) * HEIGHT:.1f}")
        elif part:
            parts.append("M" + "L".join(part if len(part) > 1 else part * 2))
            part = []
    return f'<path class="{kind}" d="{" ".join(parts)}"></path>' if parts else ""


def band(xs: Sequence[float], low: Sequence[float | None], high: Sequence[float | None]) -> str:
    """Return the areas between two lines, where both have values."""
    there = [
        (x, a, b) for x, a, b in zip(xs, low, high, strict=True) if a is not None and b is not None
    ]
    if len(there) < 2:
        return ""
    edge = [f"{x * WIDTH:.1f} {(1 - b) * HEIGHT:.1f}" for x, _, b in there]
    edge += [f"{x * WIDTH:.1f} {(1 - a) * HEIGHT:.1f}" for x, a, _ in reversed(there)]
    return f'<path class="band" d="M{"L".join(edge)}Z"></path>'


def picture(label: str, inside: str) -> str:
    box = f'viewBox="0 -2 {WIDTH} {HEIGHT + 4}" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="{escape(label)}">{inside}</svg>'


def figure(
    title: str, now: str, drawn: str, ends: Sequence[str], scale: Sequence[str], legend: str
) -> str:
    """Return a picture with its title, the newest value, and what its edges stand for."""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption><p class='now'>{now}</p>"
        f"<div class='plot'><span>{escape(scale[1])}</span>{drawn}<span>{escape(scale[0])}</span></div>"
        f"<p class='hint ends'><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></p>"
        f"{legend}</figure>"
    )


def legend(*names: tuple[str, str]) -> str:
    """Return which line is which, as (class, name)."""
    if len(names) < 2:
        return ""
    parts = (f"<span><i class='{kind}'></i>{escape(name)}</span>" for kind, name in names)
    return f"<p class='hint legend'>{''.join(parts)}</p>"


def trend(title: str, unit: str, past: Sequence[Point], now: Point | None, **names: str) -> str:
    """Return the figure of some fields of the points, by their names."""
    end = now.time if now else time.time()
    past = [one for one in past if one.time >= end - SPAN][::2]
    past = [*past, now] if now else past
    xs = [1 - (end - one.time) / SPAN for one in past]
    lines = {field: [getattr(one, field) for one in past] for field in names}
    top = (
        max(
            (value for values in lines.values() for value in values if value is not None), default=0
        )
        or 1
    )
    kinds = [f"line{place}" for place in range(len(names))]
    drawn = ""
    for kind, values in reversed(
        list(zip(kinds, lines.values(), strict=True))
    ):  # the first one on top
        drawn += line(xs, [None if value is None else value / top for value in values], kind)
    texts = [shown(getattr(now, field) if now else None, unit) for field in names]
    said = ", ".join(f"{name} {text}" for name, text in zip(names.values(), texts, strict=True))
    big = " <small>/</small> ".join(escape(text.removesuffix(f" {unit}")) for text in texts)
    big += f" <small>{escape(unit)}</small>"
    lines_said = legend(*zip(kinds, names.values(), strict=True))
    ends, scale = ("an hour ago", "now"), ("0", shown(top, unit))
    return figure(title, big, picture(said, drawn), ends, scale, lines_said)


def charts(samples: Sequence[Sample]) -> str:
    """Return the figures of the service; the last sample is of this moment."""
    past = points(samples)
    now = past[-1] if past else None
    return "".join(
        (
            trend("Requests a second", "", past, now, requests="requests"),
            trend(
                "Requests not answered",
                "%",
                past,
                now,
                failed="failed (5xx)",
                refused="refused (4xx)",
            ),
            trend("Time to answer", "ms", past, now, p50="half", p95="95 %", p99="99 %"),
            trend("Rows predicted a second", "", past, now, rows="rows"),
            trend("Requests in flight", "", past, now, in_flight="in flight"),
            trend("Rows on disk that wait for the log", "", past, now, waiting="rows"),
        )
    )


def scaled(*lines: Sequence[float | None]) -> tuple[float, float]:
    """Return limits that hold all values, with some space around them."""
    values = [value for one in lines for value in one if value is not None]
    low, high = min(values, default=0), max(values, default=1)
    space = (high - low or abs(high) or 1) / 10
    return low - space, high + space


Lines = dict[str, list[float | None]]


def over_windows(
    title: str, windows: Sequence[MonitoringWindow], lines: Lines, unit: str, **names: str
) -> str:
    """Return the figure of values over windows; `low` and `high`, if they are there, are a band."""
    low, high = scaled(*lines.values()) if unit != "%" else (0, max(*scaled(*lines.values()), 0.1))
    places = {
        name: [None if value is None else (value - low) / (high - low) for value in values]
        for name, values in lines.items()
    }
    xs = [place / max(1, len(windows) - 1) for place in range(len(windows))]
    drawn = band(xs, places["low"], places["high"]) if "low" in places else ""
    drawn += "".join(line(xs, places[name], kind) for name, kind in names.items())
    now = shown(lines["value"][-1], unit)
    if "low" in lines and lines["low"][-1] is not None:
        now += (
            f" <small>{shown(lines['low'][-1], unit)} to {shown(lines['high'][-1], unit)}</small>"
        )
    ends = (f"{windows[0].start:%Y-%m-%d}", f"{windows[-1].end:%Y-%m-%d}")
    marks = {"value": "these windows", "reference": "test window"}
    said = legend(*((kind, marks[name]) for name, kind in names.items()))
    return figure(
        title, now, picture(title, drawn), ends, (shown(low, unit), shown(high, unit)), said
    )


def known(number: float) -> float | None:
    return number if isfinite(number) else None


def column_bars(summary: dict[str, Any]) -> str:
    """Return the columns that drifted most, as bars; their threshold is where each one's mark is."""
    columns = (summary.get("drift") or {}).get("columns") or {}
    rated = []
    for name in columns:
        score, limit = (metrics.number(columns, name, key) for key in ("score", "threshold"))
        drifted = bool(columns[name].get("drifted"))
        rated.append((score / limit if limit > 0 else nan, str(name), score, limit, drifted))
    rated = [one for one in rated if isfinite(one[0])]
    rated.sort(reverse=True)
    lines = []
    for ratio, name, score, limit, drifted in rated[:COLUMNS]:
        kind, width = (
            "drifted" if drifted else "",
            min(ratio, 2) * 50,
        )  # the middle is the threshold
        lines.append(
            f"<li class='{kind}'><span>{escape(name)}</span>"
            f"<span class='share'>{shown(score)} of {shown(limit)}</span>"
            f"<span class='track'><span class='full' style='width: {width:.1f}%'></span></span></li>"
        )
    return f"<ul class='bars'>{''.join(lines)}</ul>" if lines else "<p>None was compared.</p>"


def badges(verdicts: Iterable[str]) -> str:
    found = [f"<b class='badge {kind}'>{kind}</b>" for kind in metrics.VERDICTS if kind in verdicts]
    return " ".join(found) or "<b class='badge fine'>nothing</b>"


def table(windows: Sequence[MonitoringWindow], metric: str) -> str:
    """Return the windows as a table, the newest one first."""
    rows = []
    for window in reversed(windows):
        summary, values = window.summary, metrics.measured(window.summary).get(metric, {})
        cells = [
            escape(window.name),
            badges(summary.get("verdicts") or ()),
            shown(metrics.number(summary, "rows")),
            shown(metrics.number(summary, "drift", "share"), "%"),
            shown(metrics.number(summary, "performance", "coverage"), "%"),
            shown(values.get("value")),
        ]
        rows.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
    heads = "".join(
        f"<th scope='col'>{escape(head)}</th>"
        for head in ("Window", "Found", "Rows", "Drifted", "Labelled", metric or "Metric")
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def monitored(windows: Sequence[MonitoringWindow]) -> str:
    """Return what the monitor found, as HTML."""
    windows = [window for window in windows if isinstance(window.summary, dict)]
    if not windows:
        return NEVER.format(command=escape(f"{current_project().name} monitor"))
    last = windows[-1]
    summary = last.summary
    alarms = [
        str(alarm.get("text", ""))
        for alarm in summary.get("alarms") or ()
        if isinstance(alarm, dict)
    ]
    told = "".join(f"<li>{escape(text)}</li>" for text in alarms)
    share = [known(metrics.number(window.summary, "drift", "share")) for window in windows]
    found = [over_windows("Columns that drifted", windows, {"value": share}, "%", value="line0")]
    all_measured = [metrics.measured(window.summary) for window in windows]
    metric = next((name for one in reversed(all_measured) for name in one), "")
    if metric:
        lines: Lines = {
            bound: [one.get(metric, {}).get(bound) for one in all_measured]
            for bound in metrics.BOUNDS
        }
        found.append(over_windows(metric, windows, lines, "", value="line0", reference="dashed"))
    found.append(
        "<figure><figcaption>Columns furthest from the reference</figcaption>"
        f"{column_bars(summary)}<p class='hint'>The middle of a bar is the column's threshold.</p></figure>"
    )
    age = ago(time.time() - last.made.timestamp())
    return (
        f"<p>{badges(summary.get('verdicts') or ())} in {escape(last.name)}, looked at {escape(age)}</p>"
        f"{f'<ul>{told}</ul>' if told else ''}"
        f"<div class='charts'>{''.join(found)}</div>{table(windows, metric)}"
    )


def state(service: Service) -> tuple[str, str, dict[str, str]]:
    """Return how the server is, in one word and one line, and more about it by name."""
    bundle, status = service.model.bundle, service.writer.status()
    refused = [name for name, one in service.followers.items() if one.refused]
    word, said = "good", f"Version {bundle.version} is ready"
    if refused:
        word, said = "poor", f"{said}; a newer bundle cannot be served ({', '.join(refused)})"
    if not status.answers:
        word, said = "poor", f"{said}; the prediction log is away, predictions wait on disk"
    if not service.ready:
        word, said = "bad", "Not ready: the prediction log takes no more"
    since = metrics.promoted(bundle.promotion)
    promoted = "never"
    if isfinite(since):
        promoted = f"{at(datetime.fromtimestamp(since, UTC))}, {ago(time.time() - since)}"
    details = {"promoted": promoted, "log queue": shown(status.queue)}
    if (challenger := service.challenger.model) and service.settings.traffic:
        details["challenger"] = f"{challenger.version} ({service.settings.traffic})"
    details["on disk"] = shown(status.spool_bytes / 2**20, "MB")
    return word, said, details


def html(service: Service, recorder: Recorder) -> str:
    """Return the page. All texts are escaped."""
    samples = list(recorder.samples)
    word, said, details = state(service)
    pairs = ((escape(name), escape(text)) for name, text in details.items())
    told = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in pairs)
    return PAGE.format(
        style=STYLE,
        name=escape(service.model.bundle.schema.name),
        state=word,
        said=escape(said),
        details=told,
        charts=charts([*samples, sample()]),
        monitor=monitored(recorder.windows),
        now=escape(at(datetime.now(UTC))),
    )
