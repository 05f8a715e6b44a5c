"""Pipeline: run the stages of dvc.yaml as `dvc repro` does, and show what they say."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import DVC, MODEL


def reproduce() -> dict[str, float]:
    """Run the pipeline, showing what it says; return the seconds that each stage took."""
    command, both = [sys.executable, "-m", "dvc", "repro"], subprocess.STDOUT
    # Unbuffered, so that each line shows when it is printed, in a log too.
    env = os.environ | {"PATH": with_scripts(), "PYTHONUNBUFFERED": "1"}
    started, refused, console = dict[str, float](), False, Console(highlight=False)
    # In a session of its own, because dvc, the shell and Python must all end when this does.
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=both, text=True, start_new_session=True
    ) as dvc:
        try:
            for line in dvc.stdout or ():
                console.print(line.rstrip(), style="dim", markup=False, soft_wrap=True)
                refused |= "exited with 3" in line
                if line.startswith("Running stage '"):
                    started[line.split("'")[1]] = time.monotonic()
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(dvc.pid, signal.SIGINT)
            dvc.terminate()
            raise
    if dvc.returncode:
        raise (Refusal if refused else Failure)("the pipeline stopped, see above")
    ends = [*started.values(), time.monotonic()][1:]
    return {stage: end - begin for (stage, begin), end in zip(started.items(), ends, strict=False)}


def with_scripts() -> str:
    """Return a PATH on which the stages find the project's command, also without activation."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


def code() -> dict[str, str]:
    """Return the SHA-256 of each source file that the model comes from, by its path.

    These are the code dependencies of the stage that makes the model and of the stages before it,
    less how a page looks. Where the package is pinned, its version takes the place of its files.
    Where there is no dvc.yaml there is no such file."""
    stages = yaml.safe_load(DVC.read_text(encoding="utf-8"))["stages"] if DVC.is_file() else {}
    needed, done = [MODEL.as_posix()], set[str]()
    while needed:
        done.add(path := needed.pop())
        makers = [stage for stage in stages.values() if path in names(stage.get("outs", []))]
        needed += [
            dep for stage in makers for dep in names(stage.get("deps", [])) if dep not in done
        ]
    code_paths = [path for path in done if path.startswith(("src/", "packages/"))]
    sources = [Path(path) for path in code_paths if "/mlops_loop/reporting/" not in path]
    found = {file for path in sources for file in (path.rglob("*.py") if path.is_dir() else [path])}
    hashes = {file.as_posix(): files.sha256(file) for file in sorted(found) if file.is_file()}
    if hashes and not any(path.startswith("packages/") for path in hashes):
        hashes["mlops-loop"] = sha256(version("mlops-loop").encode()).hexdigest()
    return hashes


def names(paths: list[Any]) -> list[str]:
    """Return the paths in a list of dvc.yaml, of which each may be a mapping to its options."""
    return [path if isinstance(path, str) else str(next(iter(path))) for path in paths]
