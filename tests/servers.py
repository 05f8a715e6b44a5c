"""Servers: real ones that the tests start on loopback and stop again."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(port: int, *command: str, **options: Any) -> Iterator[None]:
    """Run a server until the end; it is ready when it accepts connections."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, **options)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                pytest.fail(f"{' '.join(command)}: exit {process.returncode}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL with an empty database; give its URL for SQLAlchemy."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if not (initdb and server):
        pytest.skip("PostgreSQL (initdb, postgres) is not on PATH")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder, who = Path(name), dict[str, Any]()
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(folder, "postgres")
            who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data = folder / "data"
        make = initdb, "--pgdata", data, "--username", "tester", "--auth", "trust", "--no-sync"
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **who)
        where = "-D", str(data), "-p", str(port), "-k", name, "-c", "listen_addresses=127.0.0.1"
        with running(port, server, *where, cwd=folder, **who):
            yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"


@contextmanager
def object_store() -> Iterator[str]:
    """Run an S3 API (moto); give its address."""
    port = free_port()
    clean = {key: value for key, value in os.environ.items() if key != "AWS_CA_BUNDLE"}
    moto = sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)
    with running(port, *moto, env=clean):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """Run a web server on a folder; give its address."""
    port = free_port()
    serve = sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"
    with running(port, *serve, "--directory", str(folder)):
        yield f"http://127.0.0.1:{port}"
