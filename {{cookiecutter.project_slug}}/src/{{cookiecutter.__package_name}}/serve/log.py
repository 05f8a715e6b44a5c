"""Prediction log: every prediction that was answered, in any database SQLAlchemy speaks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from ..errors import Failure

PREDICTIONS = sa.Table(
    "predictions",
    sa.MetaData(),
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False, index=True),  # UTC
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("features", sa.JSON, nullable=False),
    sa.Column("output", sa.JSON, nullable=False),  # {"label": ..., "probabilities": {...}}
    sa.Column("latency_ms", sa.Float, nullable=False),
)


def connect(url: str) -> sa.Engine:
    """Return an engine on the database that the predictions share with the audit log."""
    # Seconds to wait for others that write to the same file.
    waiting = {"timeout": 30} if url.startswith("sqlite") else {}
    return sa.create_engine(url, pool_pre_ping=True, connect_args=waiting)


def open_log(url: str) -> sa.Engine:
    """Return an engine on the log's database, with the table made if need be."""
    try:
        engine = connect(url)
        PREDICTIONS.metadata.create_all(engine)
        return engine
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"the prediction log, see PREDICTION_LOG_URL, cannot be opened: {reason}") from None


def write(engine: sa.Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Store the rows in one transaction; when this returns they are durable."""
    with engine.begin() as connection:
        connection.execute(sa.insert(PREDICTIONS), rows)


def read(engine: sa.Engine, since: datetime, model_version: str) -> list[dict[str, Any]]:
    """Return what one version predicted since then, oldest first."""
    wanted = (PREDICTIONS.c.time >= since) & (PREDICTIONS.c.model_version == model_version)
    with engine.connect() as connection:
        query = sa.select(PREDICTIONS).where(wanted).order_by(PREDICTIONS.c.time)
        return [dict(row) for row in connection.execute(query).mappings()]
