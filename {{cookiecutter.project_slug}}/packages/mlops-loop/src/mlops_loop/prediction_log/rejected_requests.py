"""Rejected requests: how many were not answered, by kind of error and column."""

import threading
from datetime import UTC, datetime
from uuid import uuid4

import sqlalchemy as sa

from mlops_loop.prediction_log.connection import transaction
from mlops_loop.prediction_log.tables import PLACE_LENGTH, REFUSALS, insert

KindAndPlace = tuple[str, str]


class RejectedCounter:
    """Counts rejected requests in memory until a thread writes them to the log."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: dict[KindAndPlace, tuple[int, datetime]] = {}  # requests, time of the last
        self.pending: list[dict[str, str | int | datetime]] = []  # rows of the table

    def count(self, kind: str, place: str) -> None:
        """Count a request; `place` is the column that broke the contract, if one did."""
        with self.lock:
            requests, _ = self.counts.get((kind, place), (0, None))
            self.counts[kind, place] = (requests + 1, datetime.now(UTC))

    def write(self, engine: sa.Engine) -> None:
        """Insert what was counted; to do so again, if it is unknown whether it was, is no harm."""
        if not self.pending:
            with self.lock:
                counts = self.counts
                self.counts = {}
            for (kind, place), (requests, time) in counts.items():
                row = {"id": uuid4().hex, "kind": kind, "place": place[:PLACE_LENGTH]}
                self.pending.append({**row, "requests": requests, "time": time})
        if self.pending:
            with engine.connect() as connection, transaction(connection):
                statement = insert(connection, REFUSALS.name).on_conflict_do_nothing()
                connection.execute(statement, self.pending)
            self.pending = []


def count_rejected(engine: sa.Engine, start: datetime, end: datetime) -> dict[KindAndPlace, int]:
    """Return how many requests were rejected from `start` on and before `end`."""
    key = REFUSALS.c.kind, REFUSALS.c.place
    in_window = (REFUSALS.c.time >= start) & (REFUSALS.c.time < end)
    query = sa.select(*key, sa.func.sum(REFUSALS.c.requests)).where(in_window).group_by(*key)
    with engine.connect() as connection:
        return {(kind, place): int(n) for kind, place, n in connection.execute(query)}
