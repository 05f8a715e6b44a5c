"""The page of one window: alarms, performance, drift and data quality; it needs no network."""

import re
from hashlib import sha256
from html import escape
from pathlib import Path

from matplotlib.axes import Axes

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.drift import EvidentlyReport
from mlops_loop.monitoring.pages.badges import badges
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    ColumnDrift,
    DataQuality,
    Drift,
    Interval,
    Metric,
    Performance,
    WindowSummary,
)
from mlops_loop.reporting.charts import COLOURS, chart
from mlops_loop.reporting.page import CHART_STYLE, Cell, table, write_page

LIBRARY_LENGTH = 1_000_000  # characters from which on a script of Evidently's report is its library
SHOWN_COLUMNS = 20
METRIC_HEADS = (
    "metric",
    "measured",
    "low",
    "high",
    "on the test window",
    "estimated",
    "estimate is off by",
)
ESTIMATE_NOTE = (
    '<p class="quiet">The estimate needs no outcomes: it takes the model\'s promises for true, '
    "and cannot see that the world changed.</p>"
)
THRESHOLD_NOTE = (
    '<p class="quiet">A threshold is how far blocks of the reference, as long as this window, '
    "are from the rest of it.</p>"
)
REPORT_LINK = '<p><a href="evidently.html">Evidently\'s own report</a>, in the newest windows</p>'


def write(
    folder: Path,
    shared: Path,
    summary: WindowSummary,
    schema: Schema,
    report: EvidentlyReport | None,
) -> None:
    """Write a window's page into its folder, and Evidently's report if there is one.

    `shared` is the folder of all windows.
    """
    version = f"version {summary.model_version} of {summary.model}"
    times = f"{summary.start:%Y-%m-%d %H:%M} to {summary.end:%Y-%m-%d %H:%M} UTC"
    parts = [
        f'<p><a href="../index.html">All windows</a> · {escape(version)} · {escape(times)} · '
        f"{summary.rows:,} predictions in {summary.requests:,} requests</p>",
        f"<p>{badges(summary.verdicts)}</p>",
    ]
    if summary.alarms:
        alarms = [(alarm.rule, alarm.text, alarm.value, alarm.limit) for alarm in summary.alarms]
        parts += ["<h2>Alarms</h2>", table(("rule", "what", "value", "limit"), alarms)]
    if summary.not_judged:
        parts += ["<h2>Not judged</h2>", table(("what", "why"), summary.not_judged.items())]
    estimate = summary.estimate or {}
    parts += performance_section(summary.performance or Performance(), estimate, schema)
    parts += ["<h2>Drift</h2>", *(drift_section(summary.drift) if summary.drift else [])]
    if report is not None:
        write_report(folder, shared, report)
        parts.append(REPORT_LINK)
    parts += ["<h2>Data quality</h2>", quality_table(summary.quality)]
    title = f"Window {summary.window}"
    write_page(folder / "index.html", title, *parts, style=CHART_STYLE)


def drift_section(drift: Drift) -> list[str]:
    ordered = sorted(drift.columns.items(), key=lambda item: -in_thresholds(item[1]))
    drawn = chart(lambda axes: draw_distances(axes, ordered), "Distance, in thresholds", 4)
    rows = [
        (name, column.method, column.score, column.threshold, "drifted" if column.drifted else "")
        for name, column in ordered
    ]
    heads = ("column", "measured as", "distance", "threshold", "")
    marked = [column.drifted for _, column in ordered]
    distances = table(heads, rows, marked.__getitem__)
    return [f"<main>{drawn}</main>", distances, THRESHOLD_NOTE]


def in_thresholds(column: ColumnDrift) -> float:
    """Return a column's distance in thresholds."""
    if column.score is None or not column.threshold:
        return 2.0 if column.drifted else 0.0
    return column.score / column.threshold


def draw_distances(axes: Axes, ordered: list[tuple[str, ColumnDrift]]) -> None:
    shown = ordered[:SHOWN_COLUMNS][::-1]
    colours = [COLOURS["limit" if column.drifted else "before"] for _, column in shown]
    lengths = [min(in_thresholds(column), 5) for _, column in shown]
    axes.barh([name[:24] for name, _ in shown], lengths, color=colours)
    axes.axvline(1, color=COLOURS["limit"], linewidth=1)
    axes.tick_params(labelsize=8)


def performance_section(
    found: Performance, estimate: dict[str, Interval], schema: Schema
) -> list[str]:
    """Return what is known of the predictions' quality, and what is estimated."""
    known = f"{found.labelled:,} outcomes are known, of {found.coverage or 0:.0%} of the rows"
    if (delay := found.delay_days) and delay.median is not None and delay.p95 is not None:
        known += (
            f", after {delay.median:.3g} days in the median, 95 % of them after {delay.p95:.3g}"
        )
    parts = ["<h2>Performance</h2>", f"<p>{known}.</p>"]
    metrics = found.metrics or {}
    names = list(dict.fromkeys([*metrics, *estimate]))
    if names:
        rows = [
            metric_row(name, metrics.get(name, Metric()), estimate.get(name, Interval()))
            for name in names
        ]
        parts += [table(METRIC_HEADS, rows), ESTIMATE_NOTE]
    if error := found.calibration_error:
        heads = ("calibration", "value", "on the test window", "limit")
        parts.append(table(heads, [(error.measure, error.value, error.reference, error.limit)]))
        curve = found.calibration or []
        drawn = chart(lambda axes: draw_calibration(axes, curve, schema), "Calibration")
        parts.append(f"<main>{drawn}</main>")
    if found.slices:
        columns = ["column", "value", "rows", *found.slices[0].metrics]
        slices = [
            [one.column, one.value, one.rows, *map(one.metrics.get, columns[3:])]
            for one in found.slices
        ]
        parts += ["<h3>By slice</h3>", table(columns, slices)]
    return parts


def metric_row(name: str, metric: Metric, estimated: Interval) -> list[Cell]:
    off = None
    if metric.value is not None and estimated.value is not None:
        off = estimated.value - metric.value
    return [
        name,
        metric.value,
        metric.low,
        metric.high,
        metric.reference,
        estimated.value,
        off,
    ]


def draw_calibration(axes: Axes, curve: list[CalibrationBin], schema: Schema) -> None:
    if not curve:  # all predictions are equal
        return
    predicted = [point.predicted for point in curve]
    observed = [point.observed for point in curve]
    axes.plot(predicted, observed, marker="o", color=COLOURS["now"])
    middle = sum(predicted) / len(predicted)
    axes.axline((middle, middle), slope=1, color=COLOURS["before"], linestyle=":")
    axes.set(xlabel=f"predicted: {schema.positive or schema.target}", ylabel="observed")


def quality_table(quality: DataQuality) -> str:
    """Return rejected requests, volume, and what is missing or unknown."""
    rejected = quality.refused
    volume = quality.volume
    usual = "not known yet" if volume.usual is None else f"{volume.usual:,.0f}"
    counts = [f"{place}: {count:,}" for place, count in rejected.places.items()]
    places = f"{rejected.requests:,}; {', '.join(counts) or 'none'}"
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("requests refused", rejected.share, rejected.limit, places),
        ("rows", volume.rows, None, f"usual: {usual}"),
    ]
    for what, shares in (("missing in", quality.nulls), ("unknown categories in", quality.unseen)):
        for name, column in shares.items():
            before = f"in the reference {column.reference or 0:.2%}"
            rows.append((f"{what} {name}", column.share, column.limit, before))
    for name, share in quality.outside.items():
        if share:
            rows.append((f"out of range in {name}", share, None, "no alarm: seasons do this"))
    broken = [
        limit is not None and value is not None and value > limit for _, value, limit, _ in rows
    ]
    return table(("what", "share", "limit", ""), rows, broken.__getitem__)


def write_report(folder: Path, shared: Path, report: EvidentlyReport) -> None:
    """Write Evidently's report, with its library of 3.5 MB in a file that all windows share."""
    page = report.get_html_str(as_iframe=False)
    for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
        if len(script) > LIBRARY_LENGTH and not script.lstrip().startswith("var metric"):
            name = f"evidently-{sha256(script.encode()).hexdigest()[:12]}.js"
            if not (shared / name).exists():
                files.write_text(shared / name, script)
            page = page.replace(f"<script>{script}</script>", f'<script src="../{name}"></script>')
    (folder / "evidently.html").write_text(page, encoding="utf-8")
