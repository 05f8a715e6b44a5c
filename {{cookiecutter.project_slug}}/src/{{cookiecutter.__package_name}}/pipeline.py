"""Pipeline: run the stages of dvc.yaml as `dvc repro` does, and show what they say."""

import subprocess
import sys
import time

from rich.console import Console

from .errors import Failure, Refusal


def reproduce() -> dict[str, float]:
    """Run the pipeline, showing what it says; return the seconds that each stage took."""
    command, both = [sys.executable, "-m", "dvc", "repro"], subprocess.STDOUT
    started, refused, console = dict[str, float](), False, Console(highlight=False)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=both, text=True) as dvc:
        for line in dvc.stdout or ():
            console.print(line.rstrip(), style="dim", markup=False, soft_wrap=True)
            refused |= "exited with 3" in line
            if line.startswith("Running stage '"):
                started[line.split("'")[1]] = time.monotonic()
    if dvc.returncode:
        raise (Refusal if refused else Failure)("the pipeline stopped, see above")
    ends = [*started.values(), time.monotonic()][1:]
    return {stage: end - begin for (stage, begin), end in zip(started.items(), ends, strict=False)}
