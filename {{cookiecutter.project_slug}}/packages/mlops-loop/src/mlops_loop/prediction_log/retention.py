"""Retention: delete old predictions, with what belongs to them."""

import sqlite3
from datetime import datetime
from typing import cast

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
        shrink_file(engine)
    return pruned


def prune_table(engine: sa.Engine, name: str, before: datetime) -> int:
    """Delete a table's rows from before then, with the ground truth that belongs to them."""
    pruned = 0
    table = METADATA.tables[name]
    old = sa.select(table.c.id).where(table.c.time < before).order_by(table.c.time)
    while True:
        with engine.begin() as connection:  # short ones: the server writes to the same tables
            lock_database(connection)
            ids = connection.scalars(old.limit(IDS_PER_STATEMENT)).all()
            if table is PREDICTIONS:
                connection.execute(sa.delete(OUTCOMES).where(OUTCOMES.c.prediction_id.in_(ids)))
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        pruned += len(ids)
        if len(ids) < IDS_PER_STATEMENT:
            return pruned


def shrink_file(engine: sa.Engine) -> None:
    """Give the free pages of a SQLite file back to the disk.

    A file made without auto_vacuum keeps its size; SQLite reuses its free pages.
    """
    raw = engine.raw_connection()
    try:
        connection = cast(sqlite3.Connection, raw.driver_connection)
        before = -1
        while before != (free := connection.execute("PRAGMA freelist_count").fetchone()[0]):
            before = free
            # Little by little, because it locks the file.
            connection.executescript("PRAGMA incremental_vacuum(2000)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        raw.close()
