"""Reproduce: build a version again, from its commit and data, and compare every hash."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from dvc.config import Config
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, RAW
from mlops_loop.base.pipeline import user_name
from mlops_loop.base.settings import load_settings
from mlops_loop.scoring.bundle import MANIFEST
from mlops_loop.tracking.registry import by_number, fetch_bundle, open_registry

# What would lead the commit's commands to this project's environment, repository or servers.
# (What tells uv about index, cache, certificates and network stays.)
LEAKS = (
    *("API_KEYS", "AUDIT_KEY", "BUNDLE", "DVC_", "MLFLOW_", "PREDICTION_LOG_URL"),
    *("GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE"),
    *("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"),
    *("UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC", "UV_PROJECT"),
)

Document = Mapping[str, JsonValue]


def reproduce(number: str) -> None:
    """Build a registered version again and compare it with what is registered.

    Everything happens in a temporary folder (see TMPDIR), which needs the room of an environment
    and of the data. Raises a Refusal with the list of what differs, and a Failure if it cannot be
    built.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a cancelled job cleans up too
    with tempfile.TemporaryDirectory(prefix="reproduce-") as name:
        # Resolved, because a link on the way (macOS: /tmp) would make two paths of one.
        temporary = Path(name).resolve()
        registry = open_registry(load_settings())
        version = by_number(registry, number)
        if version is None:
            known = f"the registry has no version {number} of {registry.name}"
            raise Failure(f"{known}: see MLFLOW_TRACKING_URI")
        bundle = fetch_bundle(registry, version, temporary / "registered")
        commit = checked_commit(number, version.tags.get("git_commit", ""))
        say(f"version {number} from commit {commit[:12]}, in {temporary}")
        with checked_out(commit, temporary / "tree") as folder:
            found = differences(files.read_json(bundle.folder / MANIFEST), build(folder))
    if found:
        listed = f"{', '.join(found)} differ"
        raise Refusal(f"version {number} is not what commit {commit[:12]} gives: {listed}")
    names = ", ".join(bundle.manifest.files)
    print(f"version {number} is what commit {commit[:12]} gives, byte for byte: {names}")


def checked_commit(number: str, commit: str) -> str:
    """Return the commit; raise a Failure unless this repository holds what was registered."""
    if not commit:
        outside = f"version {number} was registered outside of git"
        raise Failure(f"{outside}: no commit says what it was made from")
    if commit.endswith("-dirty"):
        why = f"version {number} was registered with changes that no commit holds"
        mend = "commit, then `uv run dvc repro` and `promote` make one that can be reproduced"
        raise Failure(f"{why} ({commit[:12]}-dirty): {mend}")
    try:
        git("cat-file", "-e", commit)
    except Failure:
        mend = "`git fetch --unshallow` gets it"
        raise Failure(f"commit {commit} is not in this repository: {mend}") from None
    return commit


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Give a work tree of the commit in `folder`; it is gone afterwards, also after Ctrl-C."""
    prefix = git("rev-parse", "--show-prefix")  # of a project that is a folder of a repository
    try:
        git("worktree", "add", "--detach", str(folder), commit)
        yield folder / prefix
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what remains is in a temporary folder
        git("worktree", "prune")


def build(folder: Path) -> Document:
    """Run the pipeline of a tree in the environment of its uv.lock; return the new manifest."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        raise Failure("uv is not installed: see https://docs.astral.sh/uv")
    if not (folder / "uv.lock").is_file():
        raise Failure("the commit has no uv.lock, so nobody knows which packages made the version")
    say("installing the commit's environment")
    if not run(uv, "sync", "--frozen", "--quiet", folder=folder):
        raise Failure("the commit's environment cannot be installed, see above")
    dvc = uv, "run", "--frozen", "--no-sync", "dvc"
    give_remotes(folder)
    for inputs in git("-C", str(folder), "ls-files", "*.dvc").splitlines():
        if not run(*dvc, "pull", inputs, folder=folder):
            say(f"the DVC remote does not give what {inputs} names; `uv run dvc push` where it is")
    say(f"pulling {RAW}")
    if run(*dvc, "pull", RAW.as_posix(), folder=folder) and (folder / RAW).is_file():
        files.write_text(folder / "dvc.yaml", edited(folder / "dvc.yaml", freeze))
    else:
        say(f"the DVC remote does not give {RAW}, see above: reading the source again")
    say("building")
    if not run(*dvc, "repro", "--force", "--no-run-cache", folder=folder):
        raise Failure("the commit's pipeline stopped, see above")
    manifest: Document = files.read_json(folder / BUNDLE / MANIFEST)
    return manifest


def give_remotes(folder: Path) -> None:
    """Give the tree at `folder` this project's DVC remotes and a cache of its own."""
    here = Config.from_cwd()  # with absolute paths
    with Config(str(folder / ".dvc")).edit("local", validate=False) as there:
        there["core"] = {key: value for key, value in here["core"].items() if key == "remote"}
        # As plain text: DVC would write a path relative to a folder that may be a link.
        there["remote"] = {
            name: {key: str(value) for key, value in options.items()}
            for name, options in here["remote"].items()
        }
        there["cache"] = {"dir": str(folder / ".dvc" / "cache")}


class Stage(TypedDict, total=False):
    """A stage of dvc.yaml, as far as `freeze` reads and changes it."""

    deps: list[str]
    outs: list[str | dict[str, JsonValue]]
    frozen: bool


def freeze(pipeline: dict[str, dict[str, Stage]]) -> None:
    """Keep dvc from making data/raw.parquet again; its source need not be there."""
    for stage in pipeline["stages"].values():
        if any(RAW.as_posix() in out for out in stage.get("outs", [])):
            stage["frozen"] = True
            # What remains is code, of which the manifest holds the hashes.
            known = stage.get("deps", [])
            stage["deps"] = [dep for dep in known if dep.startswith(("src/", "packages/"))]


def differences(old: Document, new: Document, place: str = "") -> list[str]:
    """Return where two manifests differ: the names of files, and the keys of all else."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        before = old.get(key)
        after = new.get(key)
        where = f"{place}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{where}: ")
        elif before != after:
            found.append(where)
    return found


def run(*command: str, folder: Path) -> bool:
    """Run a command in the folder, let it print, and return whether it succeeded."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    kept["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    kept["UV_PROJECT_ENVIRONMENT"] = str(folder / ".venv")
    kept.setdefault("USER", user_name())
    # In a session of its own, because uv, dvc, the shell and Python must all end when this does.
    with subprocess.Popen(command, cwd=folder, env=kept, start_new_session=True) as process:
        try:
            return process.wait() == 0
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise


def git(*command: str) -> str:
    """Return what git prints; it runs no hook, as those of this clone are not the commit's."""
    try:
        quiet = ["git", "-c", f"core.hooksPath={os.devnull}", *command]
        done = subprocess.run(quiet, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failure("git is not installed") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise Failure(f"git {' '.join(command[:2])}: {reason}")
    return done.stdout.strip()


def say(text: str) -> None:
    print(f"reproduce: {text}", flush=True)  # in order with what the programs print
