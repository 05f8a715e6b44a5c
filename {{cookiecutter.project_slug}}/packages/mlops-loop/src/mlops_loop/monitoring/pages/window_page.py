"""The page of one window: alarms, performance, drift and data quality."""

from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    ColumnDrift,
    Performance,
    WindowSummary,
)
from mlops_loop.reporting import page
from mlops_loop.reporting.charts import COLOURS, FEWEST, chart
from mlops_loop.reporting.formats import moment

SHOWN_COLUMNS = 20
Columns = list[tuple[str, ColumnDrift]]


def write(folder: Path, summary: WindowSummary, schema: Schema) -> None:
    """Write a window's page into its folder."""
    columns = list(summary.drift.columns.items()) if summary.drift else []
    columns.sort(key=lambda item: -in_thresholds(item[1]))
    performance = summary.performance or Performance()
    text = page.compose(
        Path(summary.report),
        "window.html",
        title=f"Window {summary.window}",
        facts=[
            f"version {summary.model_version}",
            f"{moment(summary.start)} to {moment(summary.end)}",
            f"{summary.rows:,} predictions in {summary.requests:,} requests",
            f"{summary.sampled:,} of them sampled" if summary.sampled < summary.rows else "",
        ],
        summary=summary,
        performance=performance,
        charts=charts(performance.calibration or [], columns, schema),
        columns=columns,
    )
    files.write_text(folder / "index.html", text)


def in_thresholds(column: ColumnDrift) -> float:
    """Return a column's distance in thresholds."""
    if column.score is None or not column.threshold:
        return 2.0 if column.drifted else 0.0
    return column.score / column.threshold


def charts(curve: list[CalibrationBin], columns: Columns, schema: Schema) -> list[Markup]:
    """Return the charts that have enough to show."""
    found = []
    if len(curve) >= FEWEST:  # else all predictions are nearly equal
        found.append(chart(lambda axes: draw_calibration(axes, curve, schema), "Calibration"))
    if len(columns) >= FEWEST:
        title = "Distance of each column; the line is its threshold"
        height = 1.2 + 0.18 * min(len(columns), SHOWN_COLUMNS)
        found.append(chart(lambda axes: draw_distances(axes, columns), title, height=height))
    return found


def draw_calibration(axes: Axes, curve: list[CalibrationBin], schema: Schema) -> None:
    predicted = [point.predicted for point in curve]
    ends = [min(predicted), max(predicted)]
    axes.plot(predicted, [point.observed for point in curve], "o-", color=COLOURS["now"])
    axes.plot(ends, ends, ":", color=COLOURS["before"])
    what = f"P({schema.positive})" if schema.positive else schema.target
    axes.set(xlabel=f"predicted {what}; dotted: as promised", ylabel="observed")


def draw_distances(axes: Axes, columns: Columns) -> None:
    shown = columns[:SHOWN_COLUMNS][::-1]
    colours = [COLOURS["limit" if column.drifted else "before"] for _, column in shown]
    lengths = [min(in_thresholds(column), 5) for _, column in shown]
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name, _ in shown]
    axes.barh(range(len(shown)), lengths, color=colours)
    axes.set_yticks(range(len(shown)), [name.replace("$", r"\$") for name in names], fontsize=8)
    axes.axvline(1, color=COLOURS["limit"], linewidth=1, linestyle="--")
    axes.set_xlabel("distance from the reference, in thresholds (cut off at 5)")
