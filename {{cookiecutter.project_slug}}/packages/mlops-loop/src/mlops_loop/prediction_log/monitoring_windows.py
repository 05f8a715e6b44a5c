"""Read what `monitor` found in its last windows."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mlops_loop.prediction_log.tables import WINDOWS


@dataclass(frozen=True)
class MonitoringWindow:
    """A row of the table `windows`; times are UTC."""

    model: str
    name: str
    start: datetime
    end: datetime
    made: datetime
    summary: Any  # JSON: its writer is `monitoring`, also of an older or newer version


def read_windows(engine: sa.Engine, model: str, count: int) -> list[MonitoringWindow]:
    """Return the last windows of a model, oldest first."""
    newest_first = (WINDOWS.c.end.desc(), WINDOWS.c.made.desc())
    query = sa.select(WINDOWS).where(WINDOWS.c.model == model).order_by(*newest_first)
    with engine.connect() as connection:
        rows = connection.execute(query.limit(count)).all()
    return [
        # SQLite keeps no zone.
        MonitoringWindow(
            row.model,
            row.name,
            row.start.replace(tzinfo=UTC),
            row.end.replace(tzinfo=UTC),
            row.made.replace(tzinfo=UTC),
            row.summary,
        )
        for row in reversed(rows)
    ]
