"""The page over all windows: trends, and a table with a link to each."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.pages.verdicts import badges, count_drifted, subjects
from mlops_loop.prediction_log.window_summary import WindowSummary
from mlops_loop.reporting import page
from mlops_loop.reporting.charts import COLOURS, Values, chart, draw_line, is_trend, label_ticks
from mlops_loop.reporting.formats import day, moment

KEPT_REPORTS = 6  # newest windows that keep Evidently's own report, about a megabyte each


def write(
    folder: Path,
    summaries: list[WindowSummary],
    schema: Schema,
    promised: Mapping[str, float | None],
) -> None:
    """Write the page over all windows, and drop Evidently's report of all but the newest.

    `promised` are the champion's metrics on its test window: what is expected before any outcome.
    """
    drop_old_reports(folder, summaries)
    metric, _ = tasks.deciding_metric(schema)
    latest = summaries[-1]
    text = page.compose(
        page.PAGES["Monitor"],
        "monitor.html",
        title="Monitor",
        facts=[f"version {latest.model_version}", f"as of {moment(latest.made)}"],
        summaries=summaries,
        pages={path.parent.name for path in folder.glob("*/index.html")},
        latest=latest,
        badges=badges,
        count_drifted=count_drifted,
        subjects=subjects,
        metric=metric,
        promised=promised.get(metric),
        charts=charts(summaries, metric, promised.get(metric)),
    )
    files.write_text(folder / "index.html", text)
    page.write_overview()


def drop_old_reports(folder: Path, summaries: list[WindowSummary]) -> None:
    """Delete Evidently's reports of older windows; their pages link to them no more."""
    kept = {summary.window for summary in summaries[-KEPT_REPORTS:]}
    for path in folder.glob("*/evidently.html"):
        if path.parent.name not in kept:
            window = path.with_name("index.html")
            text = page.without_part(window.read_text(encoding="utf-8"), "evidently")
            files.write_text(window, text)
            path.unlink()


def charts(summaries: list[WindowSummary], metric: str, promised: float | None) -> list[Markup]:
    """Return a chart of each trend that has enough points to be one."""
    errors = [one.performance.calibration_error if one.performance else None for one in summaries]
    measured = [error.value if error else None for error in errors]
    shares = [None if one.drift_share is None else 100 * one.drift_share for one in summaries]
    rows = [float(summary.rows) for summary in summaries]
    found = []
    if is_trend([one.metric(metric).value for one in summaries]) or is_trend(
        estimates(summaries, metric)
    ):
        title = f"{metric}: measured, promised, estimated"
        found.append(chart(lambda axes: draw_metric(axes, summaries, metric, promised), title))
    if is_trend(measured):
        limits = [error.limit if error else None for error in errors]
        title = "Calibration error and its limit"
        found.append(chart(lambda axes: draw_errors(axes, summaries, measured, limits), title))
    if is_trend(shares):
        name = "columns that drifted, %"
        found.append(chart(lambda axes: draw_bars(axes, summaries, shares, name), name))
    if is_trend(rows):
        name = "predictions logged"
        found.append(chart(lambda axes: draw_bars(axes, summaries, rows, name), name))
    return found


def estimates(summaries: list[WindowSummary], name: str) -> Values:
    known = [(summary.estimate or {}).get(name) for summary in summaries]
    return [estimate.value if estimate else None for estimate in known]


def draw_metric(
    axes: Axes, summaries: list[WindowSummary], name: str, promised: float | None
) -> None:
    metrics = [summary.metric(name) for summary in summaries]
    for place, metric in zip(window_axis(axes, summaries), metrics, strict=True):
        if metric.low is not None and metric.high is not None:
            axes.vlines(place, metric.low, metric.high, COLOURS["now"], linewidth=3, alpha=0.3)
    draw_line(axes, [one.value for one in metrics], "o-", "now", "measured, with its interval")
    draw_line(axes, [one.reference or promised for one in metrics], "--", "before", "test window")
    draw_line(axes, estimates(summaries, name), "x:", "estimate", "estimated without outcomes")
    axes.set_ylabel(name)
    axes.legend(fontsize=8, frameon=False)


def draw_errors(
    axes: Axes, summaries: list[WindowSummary], measured: Values, limits: Values
) -> None:
    window_axis(axes, summaries)
    draw_line(axes, measured, "o-", "now", "measured")
    draw_line(axes, limits, "--", "limit", "limit")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("calibration error")
    axes.legend(fontsize=8, frameon=False)


def draw_bars(axes: Axes, summaries: list[WindowSummary], values: Values, name: str) -> None:
    heights = [value or 0 for value in values]
    axes.bar(window_axis(axes, summaries), heights, color=COLOURS["now"])
    axes.set_ylabel(name)
    axes.set_ylim(0, 1.15 * max(heights) or 1)


def window_axis(axes: Axes, summaries: list[WindowSummary]) -> list[int]:
    return label_ticks(axes, [day(one.start) for one in summaries], "start of the window")
