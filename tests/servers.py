"""Servers: real ones that the tests start on loopback and stop again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tools import need_program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(
    port: int,
    *command: str,
    end: signal.Signals = signal.SIGTERM,
    minutes: int = 1,
    **options: Any,
) -> Iterator[None]:
    """Run a server until the end; it is ready when it accepts connections."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, **options)
    try:
        for _ in range(600 * minutes):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                pytest.fail(f"{' '.join(command)}: exit {process.returncode}")
            time.sleep(0.1)
        else:
            pytest.fail(f"{' '.join(command)}: not ready in time")
        yield
    finally:
        process.send_signal(end)
        process.wait(timeout=60)


class Postgres:
    """A PostgreSQL server with an empty database, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder, self.who = free_port(), folder, dict[str, Any]()
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(folder, "postgres")
            self.who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data = ("--pgdata", folder / "data", "--username", "tester", "--auth", "trust", "--no-sync")
        make: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, **self.who}
        subprocess.run(("initdb", *data), **make)
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres"
        self.stack = ExitStack()

    def start(self) -> None:
        where = "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)
        command = str(shutil.which("postgres")), *where, "-c", "listen_addresses=127.0.0.1"
        self.stack.enter_context(
            running(self.port, *command, end=signal.SIGINT, cwd=self.folder, **self.who)
        )
        # It accepts connections a little before it lets anybody in.
        asked = "pg_isready", "--quiet", "--host", "127.0.0.1", "--port", str(self.port)
        for _ in range(600):
            if subprocess.run(asked).returncode == 0:
                return
            time.sleep(0.1)
        pytest.fail("PostgreSQL does not start")

    def stop(self) -> None:
        """End it, whoever is connected."""
        self.stack.close()


@contextmanager
def restartable_postgres() -> Iterator[Postgres]:
    for program in ("initdb", "pg_isready", "postgres"):
        need_program(program, "postgresql")
    with tempfile.TemporaryDirectory() as name:
        server = Postgres(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL with an empty database; give its URL for SQLAlchemy."""
    with restartable_postgres() as server:
        yield server.url


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
