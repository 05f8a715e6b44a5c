"""Databases for the prediction log: a SQLite file, and PostgreSQL if it can be had."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from .server import free_port

GIVEN = os.environ.get("PREDICTION_LOG_TEST_URL", "")


class Postgres:
    """A server of its own, on loopback, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.port, self.data = int(free_port()), folder / "data"
        self.options: dict[str, Any] = {"cwd": folder}
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(folder, "postgres")
            self.options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        make = ["initdb", "--username", "tester", "--auth", "trust", "--no-sync", "--pgdata"]
        subprocess.run([*make, self.data], check=True, capture_output=True, **self.options)
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        where = "-D", self.data, "-p", str(self.port), "-k", "", "-c", "listen_addresses=127.0.0.1"
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen((shutil.which("postgres"), *where), **quiet, **self.options)
        address = self.url.replace("+psycopg", "")
        for _ in range(600):  # the port is open a little before anybody is let in
            with suppress(psycopg.OperationalError), psycopg.connect(address, connect_timeout=2):
                return
            time.sleep(0.1)
        pytest.fail("PostgreSQL does not start")

    def stop(self, how: str = "SIGINT") -> None:
        """End it at once, whoever is connected; with SIGQUIT as if the machine had crashed."""
        self.process.send_signal(getattr(signal, how))
        self.process.wait(timeout=60)

    def freeze(self, how: str = "SIGSTOP") -> None:
        """Let no process of it do anything any more, until it is thawed with SIGCONT."""
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for process in (first, *map(int, children)):
            os.kill(process, getattr(signal, how))


@contextmanager
def postgres() -> Iterator[Postgres]:
    if not (shutil.which("initdb") and shutil.which("postgres")):
        pytest.skip("PostgreSQL (initdb, postgres) is not on PATH")
    with TemporaryDirectory() as name:  # pytest's own are closed to other users
        server = Postgres(Path(name))
        try:
            yield server
        finally:
            server.stop()
