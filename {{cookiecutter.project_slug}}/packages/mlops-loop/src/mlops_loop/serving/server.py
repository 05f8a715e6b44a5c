"""The server's process or processes, from start to orderly shutdown."""

import os
import signal
import socket
import tempfile

import uvicorn
from uvicorn.supervisors import Multiprocess

from mlops_loop.base.errors import Failure

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# To finish what is in flight; the log has 11 seconds more, and Kubernetes gives 30.
SHUTDOWN_SECONDS = 15


class Processes(Multiprocess):
    """Uvicorn's supervisor, which also drops the gauges of processes that serve no more."""

    def keep_subprocess_alive(self) -> None:
        from prometheus_client.multiprocess import mark_process_dead  # reads FOLDER on import

        before = {process.pid for process in self.processes} | {os.getpid()}  # it serves nothing
        super().keep_subprocess_alive()
        for number in before - {process.pid for process in self.processes}:
            mark_process_dead(number)  # type: ignore[no-untyped-call]


def serve(host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it: then finish what is in flight, flush the log, and return."""
    with tempfile.TemporaryDirectory(prefix="serve-", ignore_cleanup_errors=True) as folder:
        # The processes add up their metrics here. The module of the metrics reads it on import.
        os.environ[FOLDER] = folder
        try:
            serve_app(host, port, workers)
        finally:
            del os.environ[FOLDER]


def serve_app(host: str, port: int, workers: int) -> None:
    from mlops_loop.serving.app import create_app
    from mlops_loop.serving.http.telemetry import LOGGING

    app = create_app()  # with several processes too, so that a mistake is reported in one line
    check_address(host, port)
    # Uvicorn raises the signal again that ended it: then the process would not end with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app if workers == 1 else f"{__package__}.app:create_app",
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_config=LOGGING,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    if workers > 1:
        Processes(config, sockets=[config.bind_socket()]).run()
        return
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        raise Failure("the server did not start: its log says why")


def check_address(host: str, port: int) -> None:
    """Raise Failure if the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{port}: {error.strerror}; try --port") from None
