"""Tables that are not on this disk: files at a URL that fsspec knows, and SQL queries."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Sql, format_source

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SECONDS = 10  # without an answer, after which a server counts as out of reach
ROWS = 10_000  # of a query, fetched at a time
TIMEOUTS: dict[str, Mapping[str, object]] = {
    "s3": {"config_kwargs": {"connect_timeout": SECONDS, "retries": {"max_attempts": 2}}},
    "gs": {"timeout": SECONDS},
}


@contextmanager
def reached(url: str, verb: str = "read") -> Iterator[tuple["AbstractFileSystem", str]]:
    """Give fsspec's file system of a URL, and the path there; their errors become a Failure."""
    import fsspec

    scheme = urlsplit(url).scheme
    options = TIMEOUTS.get(scheme, {})
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=SECONDS, sock_read=3 * SECONDS)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks the server twice
    try:
        yield fsspec.url_to_fs(url, **options)
    except Exception as error:  # each of fsspec's file systems has its own
        reason = first_line(error.__cause__ or error)
        if isinstance(error, FileNotFoundError) and not error.__cause__:
            reason = "there is no such file"
        reason = reason or f"no answer for {3 * SECONDS} seconds"
        raise Failure(f"{format_source(url)} cannot be {verb}: {reason}") from None


def about(system: "AbstractFileSystem", place: str) -> Mapping[str, object]:
    """Return what a file system knows of a path, such as its "type": file or directory."""
    if system.async_impl:  # some would try again for minutes
        import fsspec

        return dict(fsspec.asyn.sync(system.loop, system._info, place, timeout=3 * SECONDS))
    return dict(system.info(place))


def first_line(error: BaseException) -> str:
    """Return what went wrong, without URLs: they may hold a password."""
    return re.sub(r"\w+://\S+", "...", (str(error).splitlines() or [""])[0])


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
        with engine.connect().execution_options(yield_per=ROWS) as connection:
            result = connection.exec_driver_sql(source.sql)
            for rows in result.partitions(ROWS):
                columns = [
                    pa.array(map(spelled, values), pa.string())
                    for values in zip(*rows, strict=True)
                ]
                yield pa.table(columns, list(result.keys()))
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
