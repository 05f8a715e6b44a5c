"""Connections to the prediction log's database, with time limits, and what its errors mean."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.tables import create_missing

if TYPE_CHECKING:
    import psycopg

STATEMENT_SECONDS = 300  # until a statement that reads many rows is cancelled
SQLITE_LOCK_SECONDS = 10  # until a statement that waits for SQLite's lock fails
CONNECT_SECONDS = 5  # until a connection to PostgreSQL, or waiting for a lock of its, fails
NETWORK = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": CONNECT_SECONDS,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000 * CONNECT_SECONDS,
}


def open_log(url: str) -> sa.Engine:
    """Return an engine on the log's database, with its tables; raise Failure if it is unusable."""
    engine = connect(url)
    try:
        create_missing(engine)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    return engine


@contextmanager
def usable_log() -> Iterator[sa.Engine]:
    """Give the log that the settings name; what the database says against it becomes a Failure."""
    engine = open_log(load_settings().prediction_log_url)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise unusable(error) from None


def connect(url: str, statement_seconds: int = STATEMENT_SECONDS) -> sa.Engine:
    """Return an engine on the database of the predictions, in which the audit log is too.

    It connects when it is used. On PostgreSQL a statement fails after `statement_seconds`. Raises
    Failure for a wrong URL, another database than SQLite and PostgreSQL, or a missing driver.
    """
    try:
        database = sa.make_url(url).get_backend_name()
        if database not in ("sqlite", "postgresql"):
            raise ValueError(f"{database}: it must be sqlite or postgresql+psycopg")
        options = NETWORK if database == "postgresql" else {}
        engine = sa.create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args=options
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise unusable(error) from None
    set_up_connections(engine, statement_seconds)
    return engine


def set_up_connections(engine: sa.Engine, statement_seconds: int) -> None:
    statements = {
        "sqlite": (
            f"PRAGMA busy_timeout = {SQLITE_LOCK_SECONDS * 1000}",
            "PRAGMA auto_vacuum = FULL",  # of a new file, so that `prune` makes it smaller
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",  # a commit is on the disk
        ),
        "postgresql": (
            f"SET statement_timeout = {statement_seconds * 1000}",
            f"SET lock_timeout = {CONNECT_SECONDS * 1000}",
            "SET TIME ZONE 'UTC'",
            "SET enable_partitionwise_join = on",  # predictions and outcomes of a day
            "SET jit = off",  # for many partitions it compiles longer than they are read
        ),
    }[engine.dialect.name]

    @sa.event.listens_for(engine, "connect")
    def set_up(
        connection: "sqlite3.Connection | psycopg.Connection", entry: ConnectionPoolEntry
    ) -> None:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        if engine.dialect.name == "sqlite":
            file = connection.execute("PRAGMA database_list").fetchall()[0][2]
            entry.info["file"] = (file, Path(file).stat()) if file else None


@contextmanager
def transaction(connection: sa.Connection) -> Iterator[None]:
    """Run a transaction. Raises OSError if its SQLite file was moved or replaced: it is lost."""
    with connection.begin():
        yield
    if known := connection.info.get("file"):
        file, at_connect = known
        same = False
        with suppress(OSError):
            same = os.path.samestat(at_connect, Path(file).stat())
        if not same:
            connection.invalidate()
            raise OSError("its file was moved or replaced")


def unusable(error: Exception) -> Failure:
    reason = error_summary(error)
    return Failure(f"the prediction log, see PREDICTION_LOG_URL, cannot be used: {reason}")


def error_summary(error: Exception) -> str:
    """Return the first line of an error, without passwords."""
    return redacted((str(error).splitlines() or [type(error).__name__])[0])
