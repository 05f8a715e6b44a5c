"""The DVC remote: where steps and laptops exchange data, and the dvc.lock of each run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from dvc.api import DVCFileSystem
from dvc.data_cloud import Remote
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, load_yaml
from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import DVC, LOCK
from mlops_loop.base.pipeline import user_name
from pydantic import JsonValue

from mlops_loop_kubeflow.stages import load_stages, run_key

VARIABLE = "DVC_REMOTE"  # another remote than the default, as in deploy/
Entry = dict[str, JsonValue]  # of dvc.lock


def remote_name() -> list[str]:
    name = os.environ.get(VARIABLE)
    return ["--remote", name] if name else []


def open_repo() -> Repo:
    os.environ.setdefault("USER", user_name())  # DVC fails for a user without a name
    return Repo()


def open_remote(repo: Repo) -> Remote:
    try:
        return repo.cloud.get_remote(os.environ.get(VARIABLE) or None)
    except DvcException as error:
        raise Failure(f"no DVC remote ({first_line(str(error))}): {ADD}") from None


ADD = "`uv run dvc remote add --default storage s3://BUCKET/PATH`"


def need_shared_remote() -> None:
    """Raise a Failure if pods cannot reach the remote, as it is a folder."""
    remote = open_remote(open_repo())
    if remote.fs.protocol == "local":
        raise Failure(f"the DVC remote {remote.name!r} is a folder here, which no pod has: {ADD}")


def dvc(what: str, *arguments: str) -> None:
    """Run DVC; raise a Failure that names what it did not do."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = said[0].removeprefix("ERROR: ") if said else first_line(done.stderr)
        raise Failure(f"{what}: {reason}: is the DVC remote there, and may this pod use it?")


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason")


def place(remote: Remote, key: str) -> str:
    return str(remote.fs.join(remote.path, "kubeflow", f"{key}.lock"))


def publish(key: str, entries: dict[str, Entry]) -> None:
    """Write the dvc.lock of a finished run to the remote, under the key of its code and params."""
    remote = open_remote(open_repo())
    path = place(remote, key)
    try:
        remote.fs.makedirs(remote.fs.parent(path), exist_ok=True)
        remote.fs.pipe_file(path, json.dumps(entries).encode())
    except Exception as error:  # each kind of remote has its own
        raise unreachable(remote, error) from None


def unreachable(remote: Remote, error: Exception) -> Failure:
    return Failure(f"the DVC remote {remote.name!r} cannot be used: {first_line(str(error))}")


def fetch() -> None:
    """Write the dvc.lock of the run that had this code and these parameters, and what git keeps.

    Then `dvc pull` brings the data.
    """
    stages = load_stages()
    repo = open_repo()
    remote = open_remote(repo)
    try:
        entries = json.loads(remote.fs.cat_file(place(remote, run_key(stages))))
    except FileNotFoundError:
        none = "no finished run had this code and these parameters"
        raise Failure(f"{none}: submit one, or check out its commit") from None
    except Exception as error:  # each kind of remote has its own
        raise unreachable(remote, error) from None
    paths = [path for stage in stages.values() for path in stage.uncached()]
    with TemporaryDirectory() as name:
        folder = Path(name)
        copy_uncached(repo, entries, paths, folder)
        for path in paths:
            with files.writing(Path(path)) as tmp_path:
                (folder / path).rename(tmp_path)
    write_lock(entries)
    print(f"{LOCK} and {', '.join(paths)} are those of the run: `uv run dvc pull` brings its data")


def copy_uncached(repo: Repo, entries: dict[str, Entry], paths: list[str], folder: Path) -> None:
    """Copy outputs from the remote that DVC does not keep on a laptop, but for the steps."""
    project = folder / ".project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc/config").touch()
    files.write_text(project / LOCK, lock_text(entries))
    files.write_text(project / DVC, cached_pipeline())
    core = {**repo.config["core"], "no_scm": True}
    if os.environ.get(VARIABLE):
        core["remote"] = os.environ[VARIABLE]
    cache = {"dir": repo.cache.local_cache_dir}
    config = {"core": core, "cache": cache, "remote": repo.config["remote"]}
    source = DVCFileSystem(str(project), config=config)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            source.get(path, str(folder / path), recursive=True)
        except Exception as error:  # each kind of remote has its own
            raise Failure(
                f"the DVC remote does not give {path}: {first_line(str(error))}"
            ) from None


def read_lock() -> dict[str, Entry]:
    """Return the stages of dvc.lock as DVC reads them: for YAML 1.1, 1e-05 would be a text."""
    entries: dict[str, Entry] = load_yaml(LOCK)["stages"]
    return entries


def lock_text(entries: dict[str, Entry]) -> str:
    return str(dumps_yaml({"schema": "2.0", "stages": entries}))


def write_lock(entries: dict[str, Entry]) -> None:
    files.write_text(LOCK, lock_text(entries))


def cached_pipeline() -> str:
    """Return dvc.yaml with every output cached, as what is not cached never reaches a remote."""
    pipeline = load_yaml(DVC)
    for stage in pipeline["stages"].values():
        for part in ("outs", "metrics", "plots"):
            for out in stage.get(part, []):
                for options in out.values() if isinstance(out, dict) else ():
                    (options or {}).pop("cache", None)
    return str(dumps_yaml(pipeline))
