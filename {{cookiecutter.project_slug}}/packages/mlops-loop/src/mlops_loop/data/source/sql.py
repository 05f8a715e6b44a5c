"""SQL queries, through SQLAlchemy."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.base.params import Sql, format_source
from mlops_loop.data.engine import rows_at_a_time
from mlops_loop.data.source.remote import SECONDS, first_line
from mlops_loop.data.source.rows import check_names


def query(source: Sql) -> Iterator[pa.Table]:
    """Give the rows of a query, each value as the text that it spells: databases' types vary."""
    name = format_source(source)
    address = os.environ.get(source.url_env)
    if not address:
        what = "it must hold the database's URL"
        raise Failure(f"the environment variable {source.url_env} is not set: {what}")
    password = None
    try:
        url = sa.make_url(address)
        password = url.password
        engine = open_engine(url, name)
        with engine.connect().execution_options(yield_per=BATCH // 10) as connection:
            result = connection.exec_driver_sql(source.sql)
            names = list(result.keys())
            check_names(names, name)
            for rows in result.partitions(rows_at_a_time(names)):
                columns = [
                    pa.array(map(spelled, column), pa.string())
                    for column in zip(*rows, strict=True)
                ]
                yield pa.table(columns, names)
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        reason = reason.replace(password, "***") if password else reason
        raise Failure(f"{name} failed: {reason}") from None


def open_engine(url: sa.URL, name: str) -> sa.Engine:
    backend = url.get_backend_name()
    is_file = backend == "sqlite" and url.database not in (None, "", ":memory:")
    if is_file and not Path(str(url.database)).exists():  # SQLite would make an empty one
        raise Failure(f"{name}: there is no file {url.database}")
    slow = backend in ("postgresql", "mysql", "mariadb")
    return sa.create_engine(url, connect_args={"connect_timeout": SECONDS} if slow else {})


def spelled(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)
