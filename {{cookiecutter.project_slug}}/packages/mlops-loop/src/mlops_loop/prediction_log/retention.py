"""Retention: delete old predictions, with what belongs to them."""

from datetime import datetime

import sqlalchemy as sa

from mlops_loop.prediction_log.tables import (
    IDS_PER_STATEMENT,
    METADATA,
    OUTCOMES,
    PREDICTIONS,
    REFUSALS,
    lock_database,
)


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete predictions made before then, their ground truth, and rejected requests of that time.

    Returns how many predictions were deleted.
    """
    pruned = prune_table(engine, PREDICTIONS.name, before)
    prune_table(engine, REFUSALS.name, before)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:  # it drops the pages that are free now
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return pruned


def prune_table(engine: sa.Engine, name: str, before: datetime) -> int:
    table = METADATA.tables[name]
    pruned = 0
    old = sa.select(table.c.id).where(table.c.time < before).order_by(table.c.time)
    while True:
        with engine.begin() as connection:  # short ones: the server writes to the same tables
            lock_database(connection)
            ids = connection.scalars(old.limit(IDS_PER_STATEMENT)).all()
            connection.execute(sa.delete(OUTCOMES).where(OUTCOMES.c.prediction_id.in_(ids)))
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        pruned += len(ids)
        if len(ids) < IDS_PER_STATEMENT:
            return pruned
