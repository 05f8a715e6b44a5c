"""Files at a URL that fsspec knows: each of its file systems fails in its own way, here in one."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Protocol
from urllib.parse import urlsplit

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source

SECONDS = 10  # without an answer, after which a server counts as out of reach
TIMEOUTS: dict[str, Mapping[str, object]] = {
    "s3": {"config_kwargs": {"connect_timeout": SECONDS, "retries": {"max_attempts": 2}}},
    "gs": {"timeout": SECONDS},
}


class FileSystem(Protocol):
    """A file system of fsspec."""

    async_impl: bool
    loop: object  # asyncio's, of those that are asynchronous

    def open(self, path: str, mode: str) -> IO[bytes]: ...

    def info(self, path: str) -> Mapping[str, object]: ...

    async def _info(self, path: str) -> Mapping[str, object]: ...

    def find(self, path: str) -> list[str]: ...

    def unstrip_protocol(self, name: str) -> str: ...

    def put_file(self, lpath: str, rpath: str) -> None: ...


@contextmanager
def reached(url: str, verb: str = "read") -> Iterator[tuple[FileSystem, str]]:
    """Give fsspec's file system of a URL, and the path there; whatever these raise becomes a
    Failure.
    """
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


def about(system: FileSystem, place: str) -> Mapping[str, object]:
    """Return what a file system of fsspec knows of a path, such as its "type": file or
    directory.
    """
    if system.async_impl:  # some would try again for minutes
        import fsspec

        found = fsspec.asyn.sync(system.loop, system._info, place, timeout=3 * SECONDS)
    else:
        found = system.info(place)
    return dict(found)


def first_line(error: BaseException) -> str:
    """Return what went wrong, without URLs: they may hold a password."""
    return re.sub(r"\w+://\S+", "...", (str(error).splitlines() or [""])[0])
