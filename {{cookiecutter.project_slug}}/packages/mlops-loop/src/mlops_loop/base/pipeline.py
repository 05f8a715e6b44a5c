"""Pipeline: run the stages of dvc.yaml as `dvc repro` does, and see how each of them ends.

A stage runs the project's own command in a process of DVC's. It appends a line to the file that an
environment variable names, so that nobody has to read DVC's messages.
"""

import getpass
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mlops_loop.base.errors import Failure, Refusal

VARIABLE = "MLOPS_LOOP_STAGE_STATUS"


class StageStatus(NamedTuple):
    """How a stage ended; the fields of a line in the file."""

    stage: str
    seconds: float
    code: int


def reproduce(*options: str) -> dict[str, float]:
    """Run the pipeline, showing what it says; return the seconds that each stage took.

    Raises a Refusal if a stage's check said no, and a Failure if a stage stopped otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder) / "stages.jsonl"
        exit_code = run_dvc({VARIABLE: str(status_file)}, *options)
        statuses = read_statuses(status_file)
    if exit_code:
        refused = any(status.code == Refusal.code for status in statuses)
        raise (Refusal if refused else Failure)("the pipeline stopped, see above")
    return {status.stage: status.seconds for status in statuses}


@contextmanager
def reported(stage: str) -> Iterator[None]:
    """Report how the verb `stage` ends, if a pipeline run asks for it."""
    path = os.environ.pop(VARIABLE, os.devnull)  # not for the processes that this one starts
    started = time.monotonic()
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        with Path(path).open("a", encoding="utf-8") as file:
            status = StageStatus(stage, time.monotonic() - started, code)
            file.write(json.dumps(status._asdict()) + "\n")


def read_statuses(path: Path) -> list[StageStatus]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [StageStatus(**json.loads(line)) for line in lines]


def run_dvc(variables: dict[str, str], *options: str) -> int:
    """Run `dvc repro`, showing what it says; return its exit code."""
    from rich.console import Console  # here, because a server needs none

    # With the project's command on PATH, also without activation, and each line when it is printed.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    env = {"USER": user_name()} | os.environ | variables | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    console = Console(highlight=False)
    # In a session of its own, because dvc, the shell and Python must all end when this does.
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *options],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as dvc:
        try:
            for line in dvc.stdout or ():
                console.print(line.rstrip(), style="dim", markup=False, soft_wrap=True)
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(dvc.pid, signal.SIGINT)
            dvc.terminate()
            raise
    return dvc.returncode


def user_name() -> str:
    """Return the user's name; DVC fails for one without, such as a container's."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
