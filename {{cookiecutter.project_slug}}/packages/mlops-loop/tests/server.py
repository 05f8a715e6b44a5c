"""Server: the real one, in a process of its own, and what the tests ask of it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import sqlalchemy as sa

from mlops_loop.base import files
from mlops_loop.base.project import command as project_command
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.scoring.bundle import PROMOTION, Manifest, write_manifest

SERVED = Path("served")


def install(version: str, manifest: Manifest | None = None, graph: bytes | None = None) -> None:
    """Replace the served bundle, as a promotion does."""
    with files.writing(SERVED) as beside:
        shutil.copytree(files.BUNDLE, beside)
        if graph:
            (beside / "model.onnx").write_bytes(graph)
            write_manifest(beside, manifest or Manifest())
        files.write_json(beside / PROMOTION, {"version": version})


class Server(NamedTuple):
    address: str
    process: subprocess.Popen


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@contextmanager
def started(log: str, *command: str) -> Iterator[subprocess.Popen]:
    """Run a program, which says in a file what it has to say."""
    with Path(log).open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def redis() -> Iterator[str]:
    """Run Redis; give its address."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server")
    port = free_port()
    options = "--port", port, "--bind", "127.0.0.1", "--save", ""
    with started("redis.log", "redis-server", *options):
        until(lambda: accepts(int(port)))
        yield f"redis://127.0.0.1:{port}"


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """Run the real server, which says what it has to say in server.log."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with started("server.log", *project_command(), "serve", "--port", port, *options) as process:
        for _ in range(600):
            with suppress(requests.ConnectionError):
                requests.get(f"{address}/health/ready", timeout=60).raise_for_status()
                break
            assert process.poll() is None, Path("server.log").read_text()
            time.sleep(0.1)
        yield Server(address, process)


def until(found: Callable[[], bool]) -> None:
    """Wait for something that must come; the limit is for a test that would never end."""
    for _ in range(600):
        if found():
            return
        time.sleep(0.1)
    raise AssertionError(Path("server.log").read_text())


def logged() -> list[dict]:
    """Every row of the prediction log."""
    with open_log("sqlite:///predictions.db").connect() as connection:
        return [dict(row) for row in connection.execute(PREDICTIONS.select()).mappings()]


def read_log(engine: sa.Engine, since: datetime, version: str) -> list[dict]:
    """What one version answered since then."""
    of_version = PREDICTIONS.c.model_version == version
    wanted = (PREDICTIONS.c.time >= since) & of_version & (PREDICTIONS.c.variant != "shadow")
    with engine.connect() as connection:
        return [
            dict(row) for row in connection.execute(sa.select(PREDICTIONS).where(wanted)).mappings()
        ]


def value(text: str, name: str, *parts: str) -> float:
    """The sum of a metric over the samples that have all these labels."""
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    chosen = [line for line in lines if all(part in line for part in parts)]
    return sum(float(line.rpartition(" ")[2]) for line in chosen)
