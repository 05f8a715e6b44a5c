"""Retention: delete old predictions, with what belongs to them."""

import time
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from mlops_loop.base.errors import Failure
from mlops_loop.prediction_log.ids import midnight
from mlops_loop.prediction_log.partitions import KEYS, is_partitioned, partitions
from mlops_loop.prediction_log.tables import (
    IDS_PER_STATEMENT,
    OUTCOMES,
    PREDICTIONS,
    REFUSALS,
    lock_database,
)

ATTEMPTS = 30  # to get the lock for a moment in which nobody reads or writes
ATTEMPT = "SET LOCAL lock_timeout = 500"  # ms: whoever comes after it waits as long
LOCKED = "55P03"  # PostgreSQL's code for it


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete predictions made before then, their ground truth, and rejected requests of that time.

    Returns how many predictions were deleted.
    """
    dropped = drop_days(engine, before)
    for table in (REFUSALS, PREDICTIONS):
        old = sa.select(table.c.id).where(table.c.time < before).order_by(table.c.time)
        pruned = 0
        ids: Sequence[str] = [""]
        while ids:
            with engine.begin() as connection:  # short ones: the server writes to the same tables
                lock_database(connection)
                ids = connection.scalars(old.limit(IDS_PER_STATEMENT)).all()
                connection.execute(sa.delete(OUTCOMES).where(OUTCOMES.c.prediction_id.in_(ids)))
                connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
            pruned += len(ids)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:  # it drops the pages that are free now
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return dropped + pruned


def drop_days(engine: sa.Engine, before: datetime) -> int:
    """Drop the partitions of whole days before then; return how many predictions they held."""
    with engine.connect() as connection:
        known = partitions(connection) if is_partitioned(connection) else {}
    ended = sorted(name for name, end in known.items() if midnight(end) <= before)
    return sum(drop_partition(engine, name, before) for name in ended)


def drop_partition(engine: sa.Engine, suffix: str, before: datetime) -> int:
    """Drop a day's partitions of both tables; none if it holds, by a strange id, a younger row."""
    name = f"{PREDICTIONS.name}{suffix}"
    younger = sa.text(f"SELECT EXISTS (SELECT FROM {name} WHERE time >= :before)")
    for _ in range(ATTEMPTS):
        try:
            with engine.begin() as connection:
                lock_database(connection)
                if connection.scalar(younger, {"before": before}):
                    return 0
                rows = connection.scalar(sa.text(f"SELECT count(*) FROM {name}"))
                connection.exec_driver_sql(ATTEMPT)
                for table in KEYS:
                    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}{suffix}")
            return int(rows or 0)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", "") != LOCKED:
                raise
            time.sleep(0.5)
    raise Failure(f"{name} cannot be dropped: the log is read all the time; try again later")
