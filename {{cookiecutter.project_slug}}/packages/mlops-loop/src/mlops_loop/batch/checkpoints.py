"""Checkpoints: a long run keeps what it has done beside its output, and resumes there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source

FAR = Path("build/scoring")  # the parts of what goes to a URL


@contextmanager
def folder_of(target: str) -> Iterator[Path]:
    """Give the folder that holds what goes to `target` until it is whole, to this process alone.

    It stays with what is done if the process is stopped or fails.
    """
    parts = Path(target).with_name(f".{Path(target).name}.parts")
    if "://" in target:
        parts = FAR / sha256(target.encode()).hexdigest()[:16]
    parts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parts / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        what = f"another process scores to {format_source(target)}"
        raise Failure(f"{what}: wait for it, or name another") from None
    whole = False
    try:
        yield parts
        whole = True
    finally:
        if whole or not any(path.suffix in (".arrow", ".json") for path in parts.iterdir()):
            shutil.rmtree(parts, ignore_errors=True)  # Windows keeps the lock's file, while held
        lock.release()


def read(part: Path, rows: int) -> pa.Table | None:
    """Return the answers that an earlier run has left; None if it has not, or not all of them."""
    try:
        with pa.OSFile(str(part)) as file:
            found = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException):
        return None
    return found if len(found) == rows else None


def write(part: Path, answered: pa.Table) -> None:
    tmp_path = part.with_suffix(".new")
    with pa.ipc.new_file(str(tmp_path), answered.schema) as writer:
        writer.write_table(answered)
    settle(tmp_path)
    tmp_path.replace(part)


def settle(path: Path) -> None:
    """Have a file on the disk itself, so that it is whole even if the power fails."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
