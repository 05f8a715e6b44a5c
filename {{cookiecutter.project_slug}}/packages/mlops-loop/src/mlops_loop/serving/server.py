"""The server's process or processes, from start to orderly shutdown."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, TypedDict

import uvicorn
from fastapi import FastAPI
from pydantic import JsonValue
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from mlops_loop.base.errors import Failure

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# To finish what is in flight; the log has 11 seconds more, and Kubernetes gives 30.
SHUTDOWN_SECONDS = 15
CLIENT_SECONDS = 10  # in which a request's head must arrive, and an answer must be read
HEAD_BYTES = 256 * 1024  # of a request besides its body


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, with limits on slow clients that it lacks.

    It closes connections whose head does not end or arrives too slowly, and those whose client
    does not read the answer. Uvicorn has options for neither, so this extends its callbacks; a
    proxy in front, such as nginx, makes it superfluous.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_bytes = 0  # also trailers, and what separates chunks
        self.read_timer: asyncio.TimerHandle | None = self.close_later()
        self.write_timer: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.head_bytes -= len(body)

    def data_received(self, data: bytes) -> None:
        self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self.is_busy():
            if self.read_timer:
                self.read_timer.cancel()
            self.read_timer = None
        elif self.read_timer is None:
            self.read_timer = self.close_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_timer = self.loop.call_later(CLIENT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self.write_timer:
            self.write_timer.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.read_timer, self.write_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def close_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(CLIENT_SECONDS, self.close_if_idle)

    def close_if_idle(self) -> None:
        self.read_timer = None
        if not self.is_busy():
            self.transport.close()


class Processes(Multiprocess):
    """Uvicorn's supervisor, which on SIGHUP restarts no process, but lets all reload the model."""

    def handle_hup(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGHUP)


def serve(host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it: then finish what is in flight, flush the log, and return."""
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="serve-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        # The processes add up their metrics here. The module of the metrics reads it on import.
        stack.callback(os.environ.pop, FOLDER)
        os.environ[FOLDER] = str(folder)
        from mlops_loop.serving.app import create_app

        app = create_app()  # with several processes too, so that a mistake is reported in one line
        check_address(host, port)
        # Uvicorn raises the signal again that ended it: then the process would not end with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        options = uvicorn_options(host, port)
        if workers == 1:
            uvicorn.run(app, **options)
        else:
            serve_in_processes(app, folder, stack, options, workers)


def check_address(host: str, port: int) -> None:
    """Raise Failure if the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{port}: {error.strerror}; try --port") from None


class UvicornOptions(TypedDict):
    host: str
    port: int
    access_log: bool
    log_config: dict[str, JsonValue]
    ws: Literal["none"]
    server_header: bool
    http: type[Protocol]
    timeout_graceful_shutdown: int


def uvicorn_options(host: str, port: int) -> UvicornOptions:
    from mlops_loop.serving.http.telemetry import logging_config

    return {
        "host": host,
        "port": port,
        "access_log": False,
        "log_config": logging_config(),
        "ws": "none",
        "server_header": False,
        "http": Protocol,
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    }


def serve_in_processes(
    app: FastAPI, folder: Path, stack: ExitStack, options: UvicornOptions, workers: int
) -> None:
    from mlops_loop.serving.metrics import forget_process
    from mlops_loop.serving.service import LAST_GOOD_BUNDLE

    # A process that is restarted later may find a bundle that cannot be served.
    bundle = folder / "bundle"
    shutil.copytree(app.state.service.model.bundle.folder, bundle)
    stack.callback(os.environ.pop, LAST_GOOD_BUNDLE)
    os.environ[LAST_GOOD_BUNDLE] = str(bundle)
    forget_process(os.getpid())  # this one only starts the others
    factory = f"{__package__}.app:create_app"
    config = uvicorn.Config(factory, factory=True, workers=workers, **options)
    Processes(config, sockets=[config.bind_socket()]).run()
