"""Files at a URL that fsspec knows: each of its file systems fails in its own way, here in one."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SECONDS = 10  # without an answer, after which a server counts as out of reach
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
