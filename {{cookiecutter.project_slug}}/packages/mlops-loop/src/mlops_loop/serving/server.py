"""Run: the server's process or processes, from the start to an orderly end."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from mlops_loop.base.errors import Failure

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
GRACE = 15  # seconds to finish what is in flight; the log has 11 more, and Kubernetes gives 30
PATIENCE = (
    10  # seconds in which the head of a request must come, and in which an answer must move on
)
HEAD = 256 * 1024  # bytes of a request besides its body


class Protocol(HttpToolsProtocol):
    """Uvicorn's, which also leaves clients that send a head without an end or too slowly, or do not read."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.unread: asyncio.TimerHandle | None = None
        self.extra = 0  # bytes that are no body: head, trailers, what divides chunks
        self.patience: asyncio.TimerHandle | None = self.loop.call_later(PATIENCE, self.leave)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.extra = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.extra -= len(body)

    def data_received(self, data: bytes) -> None:
        self.extra += len(data)
        super().data_received(data)
        if self.extra > HEAD:
            self.transport.close()
        elif self.busy():
            if self.patience:
                self.patience.cancel()
            self.patience = None
        elif self.patience is None:
            self.patience = self.loop.call_later(PATIENCE, self.leave)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.call_later(PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        if self.unread:
            self.unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.patience, self.unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def leave(self) -> None:
        self.patience = None
        if not self.busy():
            self.transport.close()


class Processes(Multiprocess):
    """Uvicorn's, which on SIGHUP does not start all anew, but passes it on: they look for a new model."""

    def handle_hup(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGHUP)


def serve(host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it: then finish what is in flight, flush the log, and return."""
    with ExitStack() as stack:
        place = tempfile.TemporaryDirectory(prefix="serve-", ignore_cleanup_errors=True)
        folder = stack.enter_context(place)
        # Here the processes count together. It must be known before the metrics are imported.
        stack.callback(os.environ.pop, FOLDER)
        os.environ[FOLDER] = folder
        from mlops_loop.serving.app import create_app
        from mlops_loop.serving.http.telemetry import logging_config
        from mlops_loop.serving.metrics import forget
        from mlops_loop.serving.service import KEPT

        app = (
            create_app()
        )  # here also with more processes, so that what is wrong is said in one line
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, port), family=family):
                pass
        except OSError as error:
            raise Failure(f"cannot listen on {host}:{port}: {error.strerror}; try --port") from None
        # Uvicorn raises the signal again that ended it: then the process would not end with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        options: Any = {
            "access_log": False,
            "log_config": logging_config(),
            "ws": "none",
            "server_header": False,
            "http": Protocol,
            "timeout_graceful_shutdown": GRACE,
        }
        options |= {"host": host, "port": port}
        if workers == 1:
            uvicorn.run(app, **options)
        else:
            # A process that is started later may find a bundle that cannot be served.
            shutil.copytree(app.state.service.model.bundle.folder, Path(folder) / "bundle")
            os.environ[KEPT] = str(Path(folder) / "bundle")
            stack.callback(os.environ.pop, KEPT)
            forget(os.getpid())  # this one only starts the others
            options |= {"workers": workers, "factory": True}
            config = uvicorn.Config(f"{__package__}.app:create_app", **options)
            Processes(config, sockets=[config.bind_socket()]).run()
