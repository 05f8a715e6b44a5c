"""The page of one window: alarms, performance, drift and data quality."""

from pathlib import Path

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


def write(folder: Path, summary: WindowSummary, schema: Schema) -> None:
    """Write a window's page into its folder."""
    columns = list(summary.drift.columns.items()) if summary.drift else []
    performance = summary.performance or Performance()
    curve = performance.calibration or []
    charts = []
    if len(curve) >= FEWEST:  # else all predictions are nearly equal
        charts.append(chart(lambda axes: draw_calibration(axes, curve, schema), "Calibration"))
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
        charts=charts,
        columns=sorted(columns, key=lambda item: -in_thresholds(item[1])),
        in_thresholds=in_thresholds,
    )
    files.write_text(folder / "index.html", text)


def in_thresholds(column: ColumnDrift) -> float:
    """Return a column's distance in thresholds."""
    if column.score is None or not column.threshold:
        return 2.0 if column.drifted else 0.0
    return column.score / column.threshold


def draw_calibration(axes: Axes, curve: list[CalibrationBin], schema: Schema) -> None:
    predicted = [point.predicted for point in curve]
    ends = [min(predicted), max(predicted)]
    axes.plot(predicted, [point.observed for point in curve], "o-", color=COLOURS["now"])
    axes.plot(ends, ends, ":", color=COLOURS["before"])
    what = f"P({schema.positive})" if schema.positive else schema.target
    axes.set(xlabel=f"predicted {what}; dotted: as promised", ylabel="observed")
