"""The page over all windows: trends, and a table with links to each."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.pages.evidently_report import FILE
from mlops_loop.prediction_log.window_summary import CalibrationError, Interval, WindowSummary
from mlops_loop.reporting import page
from mlops_loop.reporting.charts import Line, trend
from mlops_loop.reporting.formats import day, moment

KEPT_REPORTS = 6  # newest windows that keep Evidently's own report, about five megabytes each


def write(
    folder: Path,
    summaries: list[WindowSummary],
    schema: Schema,
    promised: Mapping[str, float | None],
) -> None:
    """Write the page over all windows, and drop Evidently's report of all but the newest.

    `promised` are the champion's metrics on its test window: what is expected before any outcome.
    """
    kept = {summary.window for summary in summaries[-KEPT_REPORTS:]}
    for path in folder.glob(f"*/{FILE}"):
        if path.parent.name not in kept:
            path.unlink()
    metric, _ = tasks.deciding_metric(schema)
    latest = summaries[-1]
    text = page.compose(
        page.PAGES["Monitor"],
        "monitor.html",
        title="Monitor",
        facts=[f"version {latest.model_version}", f"as of {moment(latest.made)}"],
        summaries=summaries,
        written={path.relative_to(folder).as_posix() for path in folder.glob("*/*.html")},
        latest=latest,
        metric=metric,
        promised=promised.get(metric),
        charts=charts(summaries, metric, promised.get(metric)),
    )
    files.write_text(folder / "index.html", text)
    page.write_overview()


def charts(summaries: list[WindowSummary], metric: str, promised: float | None) -> list[Markup]:
    """Return a chart of each trend that has enough points to be one."""
    starts = [day(summary.start) for summary in summaries]
    metrics = [summary.metric(metric) for summary in summaries]
    estimates = [(summary.estimate or {}).get(metric, Interval()) for summary in summaries]
    errors = [
        (summary.performance and summary.performance.calibration_error) or CalibrationError()
        for summary in summaries
    ]
    drifted = [None if one.drift_share is None else 100 * one.drift_share for one in summaries]
    lines = [
        Line("measured, with its interval", [one.value for one in metrics]),
        Line("estimated without outcomes", [one.value for one in estimates], "estimate"),
    ]
    reference = Line("test window", [one.reference or promised for one in metrics], "before")
    intervals = [(one.low, one.high) for one in metrics]
    measured = Line("measured", [error.value for error in errors])
    limit = Line("limit", [error.limit for error in errors], "limit")
    found = [
        trend(f"{metric}: measured, promised, estimated", starts, lines, reference, intervals),
        trend("Calibration error and its limit", starts, [measured], limit),
        trend("Columns that drifted, %", starts, [Line("", drifted)]),
        trend("Predictions logged", starts, [Line("", [float(one.rows) for one in summaries])]),
    ]
    return [chart for chart in found if chart]
