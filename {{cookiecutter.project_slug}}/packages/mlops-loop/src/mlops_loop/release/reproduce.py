"""Reproduce: build a version again, from its commit and data, and compare every hash."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

from dvc.api import DVCFileSystem
from dvc.repo import Repo
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, RAW
from mlops_loop.base.pipeline import user_name
from mlops_loop.base.settings import load_settings
from mlops_loop.release.smoke_test.server import find_uv
from mlops_loop.scoring.bundle import MANIFEST
from mlops_loop.tracking.params import flat
from mlops_loop.tracking.registry import open_registry

# What would lead the commit's commands to this project's environment, repository or servers.
# (What tells uv about index, cache, certificates and network stays.)
LEAKS = (
    *("API_KEYS", "AUDIT_KEY", "BUNDLE", "DVC_", "MLFLOW_", "PREDICTION_LOG_URL"),
    *("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"),
    *("UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC", "UV_PROJECT"),
)


class Stage(TypedDict, total=False):
    """A stage of dvc.yaml, as far as `freeze` reads and changes it."""

    deps: list[str]
    outs: list[str | dict[str, JsonValue]]
    frozen: bool


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
        version = registry.by_number(number)
        if version is None:
            known = f"the registry has no version {number} of {registry.name}"
            raise Failure(f"{known}: see MLFLOW_TRACKING_URI")
        bundle = registry.fetch(version, temporary / "registered")
        commit = checked_commit(number, version.tags.get("git_commit", ""))
        say(f"version {number} from commit {commit[:12]}, in {temporary}")
        tree = temporary / "tree"
        check_out(commit, tree)
        fetch_data(tree)
        build(tree)
        pair = (bundle.folder, tree / BUNDLE)
        found = differences(*(files.read_json(folder / MANIFEST) for folder in pair))
    if found:
        listed = f"{', '.join(found)} differ"
        raise Refusal(f"version {number} is not what commit {commit[:12]} gives: {listed}")
    names = ", ".join(bundle.manifest.files)
    print(f"version {number} is what commit {commit[:12]} gives, byte for byte: {names}")


def checked_commit(number: str, commit: str) -> str:
    """Return the commit; raise a Failure if none holds what was registered."""
    if not commit:
        outside = f"version {number} was registered outside of git"
        raise Failure(f"{outside}: no commit says what it was made from")
    if commit.endswith("-dirty"):
        why = f"version {number} was registered with changes that no commit holds"
        mend = "commit, then `uv run dvc repro` and `promote` make one that can be reproduced"
        raise Failure(f"{why} ({commit[:12]}-dirty): {mend}")
    return commit


def check_out(commit: str, folder: Path) -> None:
    """Unpack the project, as it was at the commit, in a folder of its own without git."""
    archive = folder.with_suffix(".tar")
    command = ["git", "archive", f"--output={archive}", commit]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise Failure(f"git does not give {commit} ({reason}): `git fetch --unshallow` may")
    shutil.unpack_archive(archive, folder)
    files.write_text(folder / ".dvc" / "config.local", "[core]\n    no_scm = true\n")


def fetch_data(folder: Path) -> None:
    """Copy what the pipeline of a tree reads from this project's DVC cache or remote."""
    here = Repo()
    core = {**here.config["core"], "no_scm": True}
    cache = {"dir": here.cache.local_cache_dir}
    config = {"core": core, "cache": cache, "remote": here.config["remote"]}
    source = DVCFileSystem(str(folder), config=config)
    tracked = [path.relative_to(folder).with_suffix("") for path in folder.glob("**/?*.dvc")]
    for path in (*tracked, RAW):
        say(f"fetching {path}")
        try:
            source.get(path.as_posix(), str(folder / path), recursive=True)
        except Exception as error:  # each kind of remote has its own
            say(
                f"neither cache nor DVC remote gives {path}: {error}; `uv run dvc push` where it is"
            )


def build(folder: Path) -> None:
    """Run the pipeline of a tree in the environment of its uv.lock."""
    uv = find_uv()
    say("installing the commit's environment")
    if not run(uv, "sync", "--frozen", "--quiet", folder=folder):
        raise Failure("the commit's environment cannot be installed, see above")
    if (folder / RAW).is_file():
        files.write_text(folder / "dvc.yaml", edited(folder / "dvc.yaml", freeze))
    else:
        say("reading the source again")
    say("building")
    again = ("dvc", "repro", "--force", "--no-run-cache")
    if not run(uv, "run", "--frozen", "--no-sync", *again, folder=folder):
        raise Failure("the commit's pipeline stopped, see above")


def freeze(pipeline: dict[str, dict[str, Stage]]) -> None:
    """Keep dvc from making data/raw.parquet again; its source need not be there."""
    for stage in pipeline["stages"].values():
        if any(RAW.as_posix() in out for out in stage.get("outs", [])):
            stage["frozen"] = True
            # What remains is code, of which the manifest holds the hashes.
            code = ("src/", "packages/")
            stage["deps"] = [dep for dep in stage.get("deps", []) if dep.startswith(code)]


def differences(old: dict[str, JsonValue], new: dict[str, JsonValue]) -> list[str]:
    """Return the keys at which two manifests differ: "files.model.onnx"."""
    before = flat(old)
    after = flat(new)
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


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


def say(text: str) -> None:
    print(f"reproduce: {text}", flush=True)  # in order with what the programs print
