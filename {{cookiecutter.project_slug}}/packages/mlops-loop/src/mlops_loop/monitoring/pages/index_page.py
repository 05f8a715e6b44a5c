"""The page over all windows: trends, and a table with a link to each; it needs no network."""

from html import escape
from pathlib import Path

from matplotlib.axes import Axes

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.pages.badges import badges
from mlops_loop.monitoring.rules import rule_of
from mlops_loop.prediction_log.window_summary import WindowSummary
from mlops_loop.reporting.charts import COLOURS, chart, label_ticks, present
from mlops_loop.reporting.page import CHART_STYLE, Cell, Markup, table, write_page

KEPT_REPORTS = 6  # newest windows that keep Evidently's own report, about a megabyte each


def write(folder: Path, summaries: list[WindowSummary], schema: Schema) -> None:
    """Write the page over all windows, and drop Evidently's report of all but the newest."""
    drop_old_reports(folder, summaries)
    metric, _ = tasks.deciding_metric(schema)
    latest = summaries[-1]
    heads = (
        "window",
        "version",
        "rows",
        "with outcome",
        metric,
        "on the test window",
        "drifted",
        "",
        "alarms",
    )
    rows = [window_row(folder, summary, metric) for summary in reversed(summaries)]
    found = f"The newest of {len(summaries)}, {escape(latest.window)}: {badges(latest.verdicts)}"
    write_page(
        folder / "index.html",
        f"{latest.model}: what the monitor found",
        f"<p>{found}</p>",
        f"<main>{''.join(charts(summaries, metric))}</main>",
        table(heads, rows),
        style=CHART_STYLE,
    )


def drop_old_reports(folder: Path, summaries: list[WindowSummary]) -> None:
    kept = {summary.window for summary in summaries[-KEPT_REPORTS:]}
    for path in folder.glob("*/evidently.html"):
        if path.parent.name not in kept:
            path.unlink()


def window_row(folder: Path, summary: WindowSummary, name: str) -> list[Cell]:
    window = escape(summary.window)
    link = window
    if (folder / summary.window / "index.html").is_file():
        link = f'<a href="{window}/index.html">{window}</a>'
    metric = summary.metric(name)
    return [
        Markup(link),
        summary.model_version,
        summary.rows,
        f"{summary.coverage or 0:.0%}",
        metric.value,
        metric.reference,
        summary.drift_share,
        Markup(f"<span>{badges(summary.verdicts)}</span>"),
        ", ".join(rule_of(alarm).subject for alarm in summary.alarms),
    ]


def charts(summaries: list[WindowSummary], metric: str) -> list[str]:
    return [
        chart(
            lambda axes: draw_metric(axes, summaries, metric),
            f"{metric}: measured, promised, estimated",
        ),
        chart(
            lambda axes: draw_calibration_errors(axes, summaries),
            "Calibration error, and where it is too much",
        ),
        chart(lambda axes: draw_drift(axes, summaries), "Share of columns that drifted"),
        chart(lambda axes: draw_rows(axes, summaries), "Predictions, and those with an outcome"),
    ]


def days(summaries: list[WindowSummary]) -> list[str]:
    return [f"{summary.start:%y-%m-%d}" for summary in summaries]


def draw_metric(axes: Axes, summaries: list[WindowSummary], name: str) -> None:
    places = label_ticks(axes, days(summaries))
    found = [summary.metric(name) for summary in summaries]
    estimates = [(summary.estimate or {}).get(name) for summary in summaries]
    for place, metric in enumerate(found):
        if metric.low is not None and metric.high is not None:
            low = metric.low
            high = metric.high
            axes.vlines(place, low, high, color=COLOURS["now"], linewidth=3, alpha=0.3)
    measured = [metric.value for metric in found]
    reference = [metric.reference for metric in found]
    estimated = [estimate.value if estimate else None for estimate in estimates]
    for label, values, colour, style in (
        ("measured", measured, "now", "o-"),
        ("on the test window", reference, "before", "_:"),
        ("estimated", estimated, "estimate", "x--"),
    ):
        axes.plot(*present(places, values), style, color=COLOURS[colour], label=label, markersize=5)
    axes.legend(fontsize=8, frameon=False)


def draw_calibration_errors(axes: Axes, summaries: list[WindowSummary]) -> None:
    places = label_ticks(axes, days(summaries))
    found = [
        summary.performance.calibration_error if summary.performance else None
        for summary in summaries
    ]
    values = [error.value if error else None for error in found]
    limits = [error.limit if error else None for error in found]
    axes.plot(*present(places, values), "o-", color=COLOURS["now"])
    axes.plot(*present(places, limits), ":", color=COLOURS["limit"])
    axes.set_ylim(bottom=0)


def draw_drift(axes: Axes, summaries: list[WindowSummary]) -> None:
    places = label_ticks(axes, days(summaries))
    shares = [summary.drift_share for summary in summaries]
    axes.bar(*present(places, shares), color=COLOURS["now"])
    axes.set_ylim(0, 1)


def draw_rows(axes: Axes, summaries: list[WindowSummary]) -> None:
    places = label_ticks(axes, days(summaries))
    axes.bar(places, [summary.rows for summary in summaries], color=COLOURS["before"])
    labelled = [summary.performance.labelled if summary.performance else 0 for summary in summaries]
    axes.bar(places, labelled, color=COLOURS["now"], width=0.5)
