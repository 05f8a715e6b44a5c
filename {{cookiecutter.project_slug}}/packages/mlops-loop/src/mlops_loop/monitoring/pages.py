"""The pages that `monitor` writes: one for each window, and an index over all."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.evidently_report import FILE
from mlops_loop.prediction_log.window_summary import (
    CalibrationError,
    ColumnDrift,
    Performance,
    WindowSummary,
)
from mlops_loop.reporting import page
from mlops_loop.reporting.charts import COLOURS, chart
from mlops_loop.reporting.formats import day, moment

FOLDER = files.REPORTS / "monitor"
KEPT_REPORTS = 6  # newest windows that keep Evidently's own report, about five megabytes each
FEWEST = 3  # points of a chart: fewer are a table


def write_window(folder: Path, summary: WindowSummary, schema: Schema) -> None:
    """Write a window's page into its folder."""
    columns = summary.drift.columns.items() if summary.drift else ()
    text = page.compose(
        Path(summary.report),
        "window.html",
        title=f"Window {summary.window}",
        # The page over all windows is written after the first one's.
        links=page.links(Path(summary.report)) | {"Monitor": "../index.html"},
        facts=[
            f"version {summary.model_version}",
            f"{moment(summary.start)} to {moment(summary.end)}",
            f"{summary.rows:,} predictions in {summary.requests:,} requests",
            f"{summary.sampled:,} of them sampled" if summary.sampled < summary.rows else "",
        ],
        summary=summary,
        performance=summary.performance or Performance(),
        chart=calibration_chart(summary, schema),
        columns=sorted(
            [(in_thresholds(column), name, column) for name, column in columns], reverse=True
        ),
    )
    files.write_text(folder / "index.html", text)


def in_thresholds(column: ColumnDrift) -> float:
    """Return a column's distance in thresholds."""
    if column.score is None or not column.threshold:
        return 2.0 if column.drifted else 0.0
    return column.score / column.threshold


def calibration_chart(summary: WindowSummary, schema: Schema) -> Markup:
    curve = (summary.performance and summary.performance.calibration) or []
    if len(curve) < FEWEST:  # all predictions are nearly equal
        return Markup()
    predicted = [point.predicted for point in curve]
    ends = [min(predicted), max(predicted)]

    def draw(axes: Axes) -> None:
        axes.plot(predicted, [point.observed for point in curve], "o-", color=COLOURS["now"])
        axes.plot(ends, ends, ":", color=COLOURS["before"])
        what = f"P({schema.positive})" if schema.positive else schema.target
        axes.set(xlabel=f"predicted {what}; dotted: as promised", ylabel="observed")

    return chart(draw, "Calibration")


def write_index(summaries: list[WindowSummary], schema: Schema) -> None:
    """Write the page over all windows; drop Evidently's report of all but the newest."""
    kept = {summary.window for summary in summaries[-KEPT_REPORTS:]}
    for path in FOLDER.glob(f"*/{FILE}"):
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
        written={path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.html")},
        latest=latest,
        metric=metric,
        charts=list(trends(summaries, metric)),
    )
    files.write_text(FOLDER / "index.html", text)
    page.write_overview()


def trends(summaries: list[WindowSummary], metric: str) -> Iterable[Markup]:
    """Give a chart of each trend that has enough points to be one."""
    rows = []
    for summary in summaries:
        found = summary.metric(metric)
        performance = summary.performance or Performance()
        error = performance.calibration_error or CalibrationError()
        row = {"measured": found.value, "test window": found.reference}
        row |= {"error": error.value, "limit": error.limit}
        rows.append({**row, "share": summary.drift_share, "rows": summary.rows})
    table = pd.DataFrame(rows, dtype=float)
    table.index = pd.Index([day(summary.start) for summary in summaries])
    charts = {
        metric: ["measured", "test window"],
        "Calibration error": ["error", "limit"],
        "Share of the columns that drifted": ["share"],
        "Predictions logged": ["rows"],
    }
    for title, names in charts.items():
        if table[names[0]].count() >= FEWEST:
            yield chart(partial(draw_trend, table[names]), title)


def draw_trend(table: pd.DataFrame, axes: Axes) -> None:
    places = range(len(table))
    for name, colour, style in zip(table, ("now", "limit"), ("o-", "--"), strict=False):
        axes.plot(places, table[name], style, color=COLOURS[colour], label=name)
    step = max(1, len(table) // 7)
    axes.set_xticks(places[::step], table.index[::step])
    axes.set_xlabel("start of the window")
    axes.legend(fontsize=8, frameon=False)
