"""The page of one window: alarms, performance, drift and data quality."""

import re
from hashlib import sha256
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.drift import EvidentlyReport
from mlops_loop.monitoring.pages.verdicts import badges, count_drifted
from mlops_loop.prediction_log.window_summary import (
    CalibrationBin,
    ColumnDrift,
    ColumnShare,
    DataQuality,
    Performance,
    RejectedShare,
    WindowSummary,
)
from mlops_loop.reporting import page
from mlops_loop.reporting.charts import COLOURS, FEWEST, chart, draw_diagonal
from mlops_loop.reporting.formats import moment

LIBRARY_LENGTH = 1_000_000  # characters from which on a script of Evidently's report is its library
SHOWN_COLUMNS = 20
Columns = list[tuple[str, ColumnDrift]]


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
    columns = list(summary.drift.columns.items()) if summary.drift else []
    columns.sort(key=lambda item: -in_thresholds(item[1]))
    performance = summary.performance or Performance()
    times = f"{moment(summary.start)} to {moment(summary.end)}"
    requests = f"{summary.rows:,} predictions in {summary.requests:,} requests"
    sampled = f"{summary.sampled:,} of them sampled" if summary.sampled < summary.rows else ""
    text = page.compose(
        shared / summary.window / "index.html",
        "window.html",
        title=f"Window {summary.window}",
        facts=[f"version {summary.model_version}", times, requests, sampled],
        badges=badges(summary),
        summary=summary,
        performance=performance,
        metric_names=list(dict.fromkeys([*(performance.metrics or {}), *(summary.estimate or {})])),
        charts=charts(performance.calibration or [], columns, schema),
        columns=columns,
        drifted=count_drifted(summary),
        shares=shares(summary.quality),
        is_broken=is_broken,
        has_report=report is not None,
    )
    files.write_text(folder / "index.html", text)
    if report is not None:
        write_report(folder, shared, report, summary.window)


def in_thresholds(column: ColumnDrift) -> float:
    """Return a column's distance in thresholds."""
    if column.score is None or not column.threshold:
        return 2.0 if column.drifted else 0.0
    return column.score / column.threshold


def shares(quality: DataQuality) -> list[tuple[str, str, ColumnShare]]:
    """Return what is missing or unknown, by column; what broke its limit comes first."""
    found = [("missing in", name, one) for name, one in quality.nulls.items()]
    found += [("unknown categories in", name, one) for name, one in quality.unseen.items()]
    return sorted(found, key=lambda row: not is_broken(row[2]))


def is_broken(one: ColumnShare | RejectedShare) -> bool:
    return one.share is not None and one.limit is not None and one.share > one.limit


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
    axes.plot(predicted, [point.observed for point in curve], "o-", color=COLOURS["now"])
    draw_diagonal(axes, predicted)
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


def write_report(folder: Path, shared: Path, report: EvidentlyReport, window: str) -> None:
    """Write Evidently's report, with its library of 3.5 MB in a file that all windows share."""
    text = report.get_html_str(as_iframe=False)
    for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        if len(script) > LIBRARY_LENGTH and not script.lstrip().startswith("var metric"):
            name = f"evidently-{sha256(script.encode()).hexdigest()[:12]}.js"
            if not (shared / name).exists():
                files.write_text(shared / name, script)
            text = text.replace(f"<script>{script}</script>", f'<script src="../{name}"></script>')
    head = page.render("evidently_head.html", window=window)
    text = re.sub(r"<body[^>]*>", lambda tag: tag[0] + head, text, count=1)
    files.write_text(folder / "evidently.html", text)
