"""The status page's section on what `monitor` found."""

import time
from collections.abc import Iterable, Sequence
from html import escape

from mlops_loop.base.project import current_project
from mlops_loop.prediction_log.monitoring_windows import BOUNDS, MonitoringWindow
from mlops_loop.prediction_log.window_summary import VERDICTS, WindowSummary
from mlops_loop.serving.pages.charts import Figure, Values, band, legend, line
from mlops_loop.serving.pages.formats import format_age, format_number

COLUMNS_SHOWN = 5  # those which drifted most
NO_WINDOWS = "<p>No monitoring window of this model yet. Run <code>{command}</code></p>"
LINE_NAMES = {"value": "these windows", "reference": "test window"}
HEADINGS = ("Window", "Found", "Rows", "Drifted", "Labelled")


def monitor_section(windows: Sequence[MonitoringWindow]) -> str:
    if not windows:
        return NO_WINDOWS.format(command=escape(f"{current_project().name} monitor"))
    newest = windows[-1]
    alarms = "".join(f"<li>{escape(alarm.text)}</li>" for alarm in newest.summary.alarms)
    metric = newest_metric(windows)
    charts = [drift_chart(windows)]
    if metric:
        charts.append(metric_chart(windows, metric))
    charts.append(
        "<figure><figcaption>Columns furthest from the reference</figcaption>"
        f"{column_bars(newest.summary)}"
        "<p class='hint'>The middle of a bar is the column's threshold.</p></figure>"
    )
    age = format_age(time.time() - newest.made.timestamp())
    return (
        f"<p>{badges(newest.summary.verdicts)} in {escape(newest.name)}, checked {escape(age)}</p>"
        f"{f'<ul>{alarms}</ul>' if alarms else ''}"
        f"<div class='charts'>{''.join(charts)}</div>{table(windows, metric)}"
    )


def newest_metric(windows: Sequence[MonitoringWindow]) -> str:
    """Return the first metric of the newest window that has one."""
    return next((name for window in reversed(windows) for name in window.metrics), "")


def badges(verdicts: Iterable[str]) -> str:
    found = [f"<b class='badge {name}'>{name}</b>" for name in VERDICTS if name in verdicts]
    return " ".join(found) or "<b class='badge fine'>nothing</b>"


def drift_chart(windows: Sequence[MonitoringWindow]) -> str:
    shares: Values = [window.summary.drift_share for window in windows]
    top = max(scale(shares)[1], 0.1)
    scaled = [None if share is None else share / top for share in shares]
    return Figure(
        "Columns that drifted",
        now=format_number(shares[-1], "%"),
        label="Columns that drifted",
        paths=line(positions(windows), scaled, "line0"),
        start=f"{windows[0].start:%Y-%m-%d}",
        end=f"{windows[-1].end:%Y-%m-%d}",
        bottom=format_number(0, "%"),
        top=format_number(top, "%"),
    ).html()


def metric_chart(windows: Sequence[MonitoringWindow], metric: str) -> str:
    """Return the chart of a metric: its value, its interval as a band, and the reference."""
    measured = [window.metrics.get(metric, {}) for window in windows]
    lines = {bound: [values.get(bound) for values in measured] for bound in BOUNDS}
    low, high = scale([value for values in lines.values() for value in values])
    scaled = {
        bound: [None if value is None else (value - low) / (high - low) for value in values]
        for bound, values in lines.items()
    }
    xs = positions(windows)
    now = format_number(lines["value"][-1])
    if lines["low"][-1] is not None:
        interval = f"{format_number(lines['low'][-1])} to {format_number(lines['high'][-1])}"
        now += f" <small>{interval}</small>"
    return Figure(
        metric,
        now=now,
        label=metric,
        paths=band(xs, scaled["low"], scaled["high"])
        + line(xs, scaled["value"], "line0")
        + line(xs, scaled["reference"], "dashed"),
        start=f"{windows[0].start:%Y-%m-%d}",
        end=f"{windows[-1].end:%Y-%m-%d}",
        bottom=format_number(low),
        top=format_number(high),
        legend=legend({"line0": LINE_NAMES["value"], "dashed": LINE_NAMES["reference"]}),
    ).html()


def positions(windows: Sequence[MonitoringWindow]) -> list[float]:
    return [place / max(1, len(windows) - 1) for place in range(len(windows))]


def scale(values: Values) -> tuple[float, float]:
    """Return limits that hold all values, with some space around them."""
    known = [value for value in values if value is not None]
    low = min(known, default=0)
    high = max(known, default=1)
    space = (high - low or abs(high) or 1) / 10
    return low - space, high + space


def column_bars(summary: WindowSummary) -> str:
    """Return the columns that drifted most, as bars of score / threshold."""
    columns = summary.drift.columns if summary.drift else {}
    rated = sorted(
        (
            (column.score / column.threshold, name, column)
            for name, column in columns.items()
            if column.score is not None and column.threshold
        ),
        key=lambda one: one[:2],
        reverse=True,
    )
    bars = []
    for ratio, name, column in rated[:COLUMNS_SHOWN]:
        css_class = "drifted" if column.drifted else ""
        width = min(ratio, 2) * 50  # the middle is the threshold
        share = f"{format_number(column.score)} of {format_number(column.threshold)}"
        bars.append(
            f"<li class='{css_class}'><span>{escape(name)}</span>"
            f"<span class='share'>{share}</span><span class='track'>"
            f"<span class='full' style='width: {width:.1f}%'></span></span></li>"
        )
    return f"<ul class='bars'>{''.join(bars)}</ul>" if bars else "<p>None was compared.</p>"


def table(windows: Sequence[MonitoringWindow], metric: str) -> str:
    """Return the windows as a table, the newest one first."""
    rows = []
    for window in reversed(windows):
        summary = window.summary
        cells = [
            escape(window.name),
            badges(summary.verdicts),
            format_number(summary.rows),
            format_number(summary.drift_share, "%"),
            format_number(summary.coverage, "%"),
            format_number(window.metrics.get(metric, {}).get("value")),
        ]
        rows.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
    headings = (*HEADINGS, metric or "Metric")
    head = "".join(f"<th scope='col'>{escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
