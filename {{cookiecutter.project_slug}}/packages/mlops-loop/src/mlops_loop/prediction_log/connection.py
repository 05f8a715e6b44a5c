"""Connections to the prediction log's database, with time limits, and what its errors mean."""

import sqlite3
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.prediction_log.tables import create_missing

STATEMENT_SECONDS = 300  # until a statement that reads many rows is cancelled
SQLITE_LOCK_SECONDS = 10  # until a statement that waits for SQLite's lock fails


def open_log(url: str, statement_seconds: float = STATEMENT_SECONDS) -> sa.Engine:
    """Return an engine on the log's database, with its tables created or brought up to date.

    Raises Failure if the database cannot be used. On PostgreSQL a statement fails after
    `statement_seconds`.
    """
    engine = connect(url, statement_seconds)
    try:
        create_missing(engine)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    return engine


def connect(url: str, statement_seconds: float = STATEMENT_SECONDS) -> sa.Engine:
    """Return an engine on the database of the predictions, in which the audit log is too.

    It connects when it is used. Raises Failure for a wrong URL or a missing driver.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except (SQLAlchemyError, ImportError) as error:
        raise unusable(error) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", set_up_sqlite)
    elif engine.dialect.driver == "psycopg":
        from mlops_loop.prediction_log.postgres import set_timeouts  # loads the driver

        set_timeouts(engine, statement_seconds)
    return engine


def set_up_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    file = connection.execute("PRAGMA database_list").fetchone()[2]
    record.info["file"] = (file, file_id(file))
    for pragma in (
        f"busy_timeout = {SQLITE_LOCK_SECONDS * 1000}",
        "auto_vacuum = INCREMENTAL",  # of a new file, so that `prune` can make it smaller
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit is on the disk
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def file_id(file: str) -> tuple[int, int]:
    """Return device and inode of a file; zeros if it does not exist."""
    with suppress(OSError):
        stat = Path(file).stat()
        return stat.st_dev, stat.st_ino
    return 0, 0


def file_was_replaced(connection: sa.Connection) -> bool:
    """Return whether a SQLite file was moved or replaced: what is written to it is lost."""
    file, id_at_connect = connection.info.get("file", ("", None))
    return bool(file) and file_id(file) != id_at_connect


def unusable(error: Exception) -> Failure:
    reason = error_summary(error)
    return Failure(f"the prediction log, see PREDICTION_LOG_URL, cannot be used: {reason}")


def error_summary(error: Exception) -> str:
    """Return the first line of an error, without passwords."""
    return redacted((str(error).splitlines() or [type(error).__name__])[0])


def is_data_error(error: Exception) -> bool:
    """Return whether the data is to blame, and not the database or the way to it."""
    if isinstance(error, OperationalError) and isinstance(error.orig, sqlite3.Error):
        return "malformed JSON" in str(error.orig)
    return isinstance(error, DataError | IntegrityError | ValueError | TypeError)


def is_wrong_sqlite_path(error: Exception) -> bool:
    """Return whether a SQLite file is in a folder that does not exist, or is no database."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB)
