"""Read what `monitor` found in its last windows.

The summary's writer may be of an older or newer version: what is missing or malformed is left out.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

import msgspec
import sqlalchemy as sa

from mlops_loop.prediction_log.tables import WINDOWS

BOUNDS = ("value", "low", "high", "reference")  # of a metric
Number = float | None


class ColumnDrift(msgspec.Struct, frozen=True):
    score: Number = None
    threshold: Number = None
    drifted: bool = False


class Drift(msgspec.Struct, frozen=True):
    share: Number = None
    columns: dict[str, ColumnDrift] = {}


class Metric(msgspec.Struct, frozen=True):
    value: Number = None
    low: Number = None
    high: Number = None
    reference: Number = None  # on the test window

    def bounds(self) -> dict[str, float]:
        values = {name: getattr(self, name) for name in BOUNDS}
        return {k: v for k, v in values.items() if v is not None and isfinite(v)}


class Performance(msgspec.Struct, frozen=True):
    coverage: Number = None
    metrics: dict[str, Metric | None] | None = None
    calibration_error: Metric | None = None


class Alarm(msgspec.Struct, frozen=True):
    text: str = ""


class Summary(msgspec.Struct, frozen=True):
    """What the server shows of a window's summary.json."""

    rows: Number = None
    verdicts: list[str] = []
    alarms: list[Alarm] = []
    drift: Drift = Drift()
    performance: Performance = Performance()

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of the labelled predictions that have a value, each with its BOUNDS."""
        found = dict(self.performance.metrics or {})
        found["calibration_error"] = self.performance.calibration_error
        bounds = {name: metric.bounds() for name, metric in found.items() if metric}
        return {name: values for name, values in bounds.items() if "value" in values}


@dataclass(frozen=True)
class MonitoringWindow:
    """A row of the table `windows`; times are UTC."""

    name: str
    start: datetime
    end: datetime
    made: datetime
    summary: Summary


def read_windows(engine: sa.Engine, model: str, count: int) -> list[MonitoringWindow]:
    """Return the last windows of a model, oldest first."""
    newest_first = (WINDOWS.c.end.desc(), WINDOWS.c.made.desc())
    query = sa.select(WINDOWS).where(WINDOWS.c.model == model).order_by(*newest_first)
    with engine.connect() as connection:
        rows = connection.execute(query.limit(count)).all()
    return [
        # SQLite keeps no zone.
        MonitoringWindow(
            name=row.name,
            start=row.start.replace(tzinfo=UTC),
            end=row.end.replace(tzinfo=UTC),
            made=row.made.replace(tzinfo=UTC),
            summary=parse_summary(row.summary),
        )
        for row in reversed(rows)
    ]


def parse_summary(value: object) -> Summary:
    """Return a stored summary, without the parts that are null or cannot be read."""
    given = value if isinstance(value, dict) else {}
    known = {}
    for field in msgspec.structs.fields(Summary):
        if given.get(field.name) is not None:
            try:
                known[field.name] = msgspec.convert(given[field.name], field.type)
            except msgspec.ValidationError:
                continue
    return Summary(**known)
