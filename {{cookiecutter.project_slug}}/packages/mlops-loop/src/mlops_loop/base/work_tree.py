"""Work tree: what git and DVC know of the state that a run is made of."""

import subprocess
from contextlib import suppress
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.base.errors import redacted


def lineage() -> dict[str, str]:
    """Return what the work tree is: its commit (-dirty where changed) and the hash of dvc.lock."""
    commit = git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    lock = Path("dvc.lock")
    return {"git_commit": commit, "dvc_lock": files.sha256(lock) if lock.is_file() else ""}


def origin() -> str:
    """Return the URL of the repository's remote, without a password; "" if it has none."""
    return redacted(git("config", "remote.origin.url"))


def git(*arguments: str) -> str:
    with suppress(FileNotFoundError):  # no git here
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        return done.stdout.strip()
    return ""
