"""Pipeline: run the stages of dvc.yaml as `dvc repro` does, and show what they say."""

import getpass
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from rich.console import Console

from mlops_loop.base import stage_status
from mlops_loop.base.errors import Failure, Refusal


def reproduce() -> dict[str, float]:
    """Run the pipeline, showing what it says; return the seconds that each stage took.

    Raises a Refusal if a stage's check said no, and a Failure if a stage stopped otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder) / "stages.jsonl"
        exit_code = run_dvc({stage_status.VARIABLE: str(status_file)})
        statuses = stage_status.read_statuses(status_file)
    if exit_code:
        refused = any(status.code == Refusal.code for status in statuses)
        raise (Refusal if refused else Failure)("the pipeline stopped, see above")
    return {status.stage: status.seconds for status in statuses}


def run_dvc(variables: dict[str, str]) -> int:
    """Run `dvc repro`, showing what it says; return its exit code."""
    command = [sys.executable, "-m", "dvc", "repro"]
    # With the project's command on PATH, also without activation, and each line when it is printed.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    env = {"USER": user_name()} | os.environ | variables | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    console = Console(highlight=False)
    # In a session of its own, because dvc, the shell and Python must all end when this does.
    with subprocess.Popen(
        command,
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
