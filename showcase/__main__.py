"""Run the showcase: `python -m showcase [--fast] [PROJECT]`."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from rich.console import Console

from showcase import report
from showcase.processes import Failure, Processes
from showcase.project import copy_project
from showcase.story import Story
from showcase.year import tell

FOLDER = Path("build/showcase")  # of the project: its copy, which is made anew each time
LOCK_FILE = Path("build/showcase.lock")
PAGE = Path("reports/showcase.html")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m showcase", description=__doc__)
    parser.add_argument("project", nargs="?", type=Path, default=Path("build/flight-delays"))
    parser.add_argument("--fast", action="store_true", help="two months instead of the year")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    try:
        show(arguments.project.resolve(), arguments.fast)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)


def leave(number: int, frame: FrameType | None) -> None:
    """End the program, once and without a word; what it has started is ended on the way out."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def show(origin: Path, fast: bool) -> None:
    """Run the showcase against a project, write its page and print its tables."""
    if not (origin / "schema.yaml").is_file():
        raise Failure(f"{origin} is no rendered project: `make showcase` renders one")
    with alone(origin):
        try:
            story = run(origin, fast)
        except Failure as failure:
            raise Failure(f"{failure}; all output is in {origin / FOLDER}/showcase.log") from None
    report.write(story, origin, PAGE, origin / FOLDER)
    console = Console()
    console.print(report.year_table(story))
    console.print(report.incident_table(story))
    console.print(f"{report.worth(story)}.", highlight=False)
    print(f"page: {origin / PAGE}")


def run(origin: Path, fast: bool) -> Story:
    """Let the year pass in a copy of the project."""
    synced = subprocess.run(["uv", "sync", "--quiet", "--inexact", "--project", str(origin)])
    if synced.returncode:
        raise Failure(f"`uv sync` in {origin} ended with {synced.returncode}")
    with stopped_at_the_end() as (processes, pool):
        workspace = copy_project(origin, origin / FOLDER, processes)
        return tell(workspace, fast, pool, partial(print_progress, time.monotonic()))


@contextmanager
def alone(origin: Path) -> Iterator[None]:
    """Refuse to run beside another showcase of the same project."""
    (origin / LOCK_FILE).parent.mkdir(exist_ok=True)
    try:
        with FileLock(origin / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise Failure(f"another showcase of {origin} is running") from None


@contextmanager
def stopped_at_the_end() -> Iterator[tuple[Processes, ThreadPoolExecutor]]:
    """Give what runs things meanwhile; whatever happens, nothing of it goes on afterwards."""
    processes = Processes()
    pool = ThreadPoolExecutor(1)
    try:
        yield processes, pool
    finally:
        processes.stop()
        pool.shutdown(cancel_futures=True)


def print_progress(started: float, text: str) -> None:
    """Print a line, also where the output is no terminal."""
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"year: {text} ({minutes}:{seconds:02} so far)", flush=True)


if __name__ == "__main__":
    main()
