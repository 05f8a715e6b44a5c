"""The connection to the cluster: within seconds, or one line on why there is none."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from mlops_loop.base.compute import ADDRESS
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project

SECONDS = 5  # to answer; Ray itself would try for two minutes
# What begins HTTP/2, which Ray's control store speaks: a preface, and an empty frame of settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4  # the type of the frame that answers it


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS. Its nodes run the same image, so no code is sent.

    Nor an environment of the job: no process that waits for work on the cluster would have it.
    """
    address = os.environ[ADDRESS]
    current_project()  # raises if no project runs
    check(address)
    for name in ("ray.data", "ray.util"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, too
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (Exception, SystemExit) as error:  # of as many kinds as there are ways to fail
        raise Failure(f"{ADDRESS}={address}: {reason(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def check(address: str) -> None:
    """Raise a Failure for an address that is none of a cluster, or does not answer."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        what = "must be auto or HOST:PORT of the cluster that this machine is a node of"
        raise Failure(f"{ADDRESS}={address} {what}; from elsewhere use `ray job submit`")
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    what = "a Ray cluster must answer there: start one by `ray start --head`, or unset it"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as connection:
            connection.sendall(HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise Failure(f"{ADDRESS}={address}: {error}; {what}") from None
    if answer[3:4] != bytes([SETTINGS]):
        raise Failure(f"{ADDRESS}={address}: what answers is no Ray cluster; {what}")


def reason(error: BaseException) -> str:
    """Return what Ray says, in one line."""
    if isinstance(error, SystemExit):
        return "Ray does not answer: its logs are in /tmp/ray/session_latest/logs"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Version mismatch"):
        return " ".join(lines) + " Use the same image for all."
    return lines[0] if lines else type(error).__name__
