"""Read what `monitor` found in its last windows."""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.prediction_log.window_summary import (
    CalibrationError,
    Metric,
    WindowSummary,
    read_summary,
)

BOUNDS = ("value", "low", "high", "reference")  # of a metric
Bounds = dict[str, float]  # those that are known


@dataclass(frozen=True)
class MonitoringWindow:
    """A row of the table `windows`; times are UTC."""

    name: str
    start: datetime
    end: datetime
    made: datetime
    summary: WindowSummary

    @property
    def metrics(self) -> dict[str, Bounds]:
        """The metrics of the labelled predictions, with calibration_error, that have a value."""
        performance = self.summary.performance
        if performance is None:
            return {}
        found: dict[str, Metric | CalibrationError] = {**(performance.metrics or {})}
        if performance.calibration_error:
            found["calibration_error"] = performance.calibration_error
        known = {name: bounds(metric) for name, metric in found.items()}
        return {name: values for name, values in known.items() if "value" in values}


def bounds(metric: Metric | CalibrationError) -> Bounds:
    values = {name: getattr(metric, name, None) for name in BOUNDS}
    return {name: value for name, value in values.items() if value is not None}


def read_windows(engine: sa.Engine, model: str, count: int) -> list[MonitoringWindow]:
    """Return the last windows of a model, oldest first."""
    newest_first = (WINDOWS.c.end.desc(), WINDOWS.c.made.desc())
    query = sa.select(WINDOWS).where(WINDOWS.c.model == model).order_by(*newest_first)
    with engine.connect() as connection:
        rows = connection.execute(query.limit(count)).all()
    return [
        MonitoringWindow(
            name=row.name,
            start=row.start.replace(tzinfo=UTC),  # SQLite keeps no zone
            end=row.end.replace(tzinfo=UTC),
            made=row.made.replace(tzinfo=UTC),
            summary=read_summary(row.summary) or WindowSummary(),
        )
        for row in reversed(rows)
    ]
