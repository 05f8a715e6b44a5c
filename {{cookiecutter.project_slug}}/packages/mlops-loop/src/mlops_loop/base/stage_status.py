"""Stage status: how each stage of a pipeline run ended, for the process that runs DVC.

A stage runs the project's own command in a process of DVC's. It appends a line to the file that an
environment variable names, so that nobody has to read DVC's messages.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "MLOPS_LOOP_STAGE_STATUS"


@dataclass(frozen=True)
class StageStatus:
    stage: str
    seconds: float
    code: int


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
        status = StageStatus(stage, time.monotonic() - started, code)
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(status)) + "\n")


def read_statuses(path: Path) -> list[StageStatus]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [StageStatus(**json.loads(line)) for line in lines]
