"""Child processes, each in a process group of its own. None outlives the showcase."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GRACE = 30  # seconds that a process has to end by itself
GROUPS = hasattr(os, "killpg")


class Failure(Exception):  # noqa: N818 - as the project calls it
    """The showcase cannot go on; the text says why."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str


class Processes:
    """All child processes that run; `stop` ends them and lets no other one start."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def started(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: IO[str] | int,
        errors: IO[str] | int,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command; end it, and what it has started itself, on the way out."""
        with self._lock:
            if self._stopped:
                raise Failure("the showcase is being stopped")
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            end(process)
            self._running.discard(process)

    def run(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> Finished:
        """Run a command to its end; return what it printed, and append that to the file `log`."""
        pipe = subprocess.PIPE
        with self.started(command, folder, environment, pipe, pipe) as process:
            stdout, stderr = process.communicate()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{stdout}{stderr}exit code {process.returncode}\n\n")
        return Finished(process.returncode, stdout, stderr)

    def stop(self) -> None:
        """End all processes, and let no other one start."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process by SIGTERM, then the rest of its group; kill what remains after GRACE seconds.

    First the process alone: a verb that cleans up must get the signal once.
    """
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    if GROUPS:
        end_group(process.pid)
    if process.poll() is None:
        process.kill()
        process.wait()


def end_group(group: int) -> None:
    limit = time.monotonic() + GRACE
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < limit:
            os.killpg(group, 0)  # raises as soon as the group is empty
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
