"""Rejected requests: how many were not answered, by kind of error and column."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import uuid4

import sqlalchemy as sa

from mlops_loop.prediction_log.tables import PLACE_LENGTH, REFUSALS, select_by_id

KindAndPlace = tuple[str, str]


@dataclass(frozen=True)
class RejectedRequests:
    """A row of the table `refusals`."""

    id: str
    time: datetime  # of the last one
    kind: str
    place: str
    requests: int


def to_rows(counts: Mapping[KindAndPlace, tuple[int, datetime]]) -> list[RejectedRequests]:
    """Return the table's rows for (kind, place) -> number of requests, and time of the last."""
    return [
        RejectedRequests(uuid4().hex, time, kind, place[:PLACE_LENGTH], requests)
        for (kind, place), (requests, time) in counts.items()
    ]


def insert_rejected(connection: sa.Connection, rows: Sequence[RejectedRequests]) -> None:
    """Insert rows; those whose ids are there already stay as they are."""
    present = select_by_id(connection, REFUSALS.c.id, [row.id for row in rows])
    if new := [asdict(row) for row in rows if row.id not in present]:
        connection.execute(sa.insert(REFUSALS), new)


def count_rejected(engine: sa.Engine, start: datetime, end: datetime) -> dict[KindAndPlace, int]:
    """Return how many requests were rejected from `start` on and before `end`."""
    kind = REFUSALS.c.kind
    place = REFUSALS.c.place
    in_window = (REFUSALS.c.time >= start) & (REFUSALS.c.time < end)
    query = sa.select(kind, place, sa.func.sum(REFUSALS.c.requests)).where(in_window)
    with engine.connect() as connection:
        rows = connection.execute(query.group_by(kind, place))
        return {(row[0], row[1]): int(row[2]) for row in rows}
