"""Retention: delete old predictions, with what belongs to them."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from mlops_loop.prediction_log.tables import (
    IDS_PER_STATEMENT,
    OUTCOMES,
    PREDICTIONS,
    REFUSALS,
    lock_database,
)


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete predictions made before then, their ground truth, and rejected requests of that time.

    Returns how many predictions were deleted.
    """
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
    return pruned
