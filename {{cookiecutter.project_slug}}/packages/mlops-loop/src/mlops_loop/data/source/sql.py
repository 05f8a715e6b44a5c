"""SQL queries, through SQLAlchemy."""

import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH
from mlops_loop.base.params import Sql, format_source
from mlops_loop.data.source.remote import SECONDS, first_line
from mlops_loop.data.source.rows import CELLS, check_names, plain


def query(source: Sql, missing: Sequence[str]) -> Iterator[pa.Table]:
    """Give the rows of a query; decimals come as floats, what Arrow has no type for as texts."""
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
            for rows in result.partitions(min(BATCH, CELLS // len(names))):
                columns = [to_arrow(column) for column in zip(*rows, strict=True)]
                yield plain(pa.table(columns, names), missing)
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


def to_arrow(values: Sequence[Decimal | float | str | None]) -> pa.Array:
    if any(isinstance(value, Decimal) for value in values):
        values = [None if value is None else float(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
