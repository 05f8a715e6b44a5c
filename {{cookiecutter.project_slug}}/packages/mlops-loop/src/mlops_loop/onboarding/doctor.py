"""Doctor: whether everything that the project needs is there, reachable and writable."""

import getpass
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import sqlalchemy as sa

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.base.project import command, current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.onboarding.git import run, tracked_data
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.partitions import is_partitioned
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.release import audit
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.tracking.registry import open_registry
from mlops_loop.tracking.session import session

SECONDS = 60  # without an answer, after which a check has failed
GIBIBYTES = 2  # an environment and a few versions of the data
UV = os.environ.get("UV") or "uv"
AT_THE_ROOT = (".github", ".pre-commit-config.yaml")  # read at a repository's root only


class Later(Failure):
    """Something that is not needed yet."""

    state = "later"


class Note(Failure):
    """Something that works here, and may surprise."""

    state = "note"


class Check(NamedTuple):
    """What the doctor asks, and a mend that fits whatever the reason of a failure."""

    name: str
    ask: Callable[[], str]
    mend: str = ""


def printed(*program: str) -> str:
    """Return what a program prints; raise a Failure with its own words if it fails."""
    done = run(*program)
    if not done.returncode:
        return done.stdout.strip()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "fatal:"))]
    raise Failure((errors or lines[-1:] or [f"`{' '.join(program)}` finds nothing"])[0])


def identity() -> str:
    return ", ".join(printed("git", "config", key) for key in ("user.name", "user.email"))


def repository() -> str:
    folder = printed("git", "rev-parse", "--show-prefix").rstrip("/")
    idle = " and ".join(name for name in AT_THE_ROOT if folder and Path(name).exists())
    if idle:
        mend = f"move them to its root, with working-directory: {folder} in the workflows"
        raise Note(f"{idle} do not run in a folder of a repository: {mend}")
    return folder or "this folder is its root"


def data_files() -> str:
    for path in tracked_data():
        raise Failure(f"{path} is in git: git rm --cached {path}, then uv run dvc add {path}")
    return "git holds no large table"


def console_script() -> str:
    """See whether the stages of a dvc that is run by hand would find this environment."""
    (expected,) = command()
    found = shutil.which(current_project().name) or "none"
    if Path(found).resolve() != Path(expected).resolve():
        raise Note(f"PATH finds {found}, and not {expected}")
    return expected


def lock_file() -> str:
    # Offline: a lock file in step needs no index, and one out of step might wait for it.
    printed(UV, "lock", "--check", "--offline")
    return "uv.lock is in step with pyproject.toml"


def tracking() -> str:
    settings = load_settings()
    probe = f"doctor-{uuid.uuid4().hex}"
    with session(settings) as client, tempfile.TemporaryDirectory() as folder:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        experiment = client.get_experiment_by_name(settings.mlflow_experiment_name)
        client.set_experiment_tag(experiment.experiment_id, probe, "written")
        client.delete_experiment_tag(experiment.experiment_id, probe)
        (Path(folder) / "probe").touch()
        artifacts = get_artifact_repository(experiment.artifact_location)
        artifacts.log_artifact(str(Path(folder) / "probe"), probe)
        artifacts.delete_artifacts(probe)
    return f"{settings.mlflow_tracking_uri}, files in {experiment.artifact_location}: writable"


def remote() -> str:
    from dvc.repo import Repo

    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")  # not five, with growing pauses
    found = Repo().cloud.get_remote()
    probe = found.fs.join(found.path, f"doctor-{uuid.uuid4().hex}")
    found.fs.makedirs(found.path, exist_ok=True)
    found.fs.pipe_file(probe, b"written")
    found.fs.remove(probe)
    return f"{found.name}: writable"


def prediction_log() -> str:
    engine = open_log(load_settings().prediction_log_url)
    row = {"id": uuid.uuid4().hex, "time": datetime.now(UTC), "latency_ms": 0.0}
    row |= {"model_version": "doctor", "features": {}, "output": {}}
    with engine.connect() as connection:  # left without a commit: rolled back
        connection.execute(sa.insert(PREDICTIONS), row)
        large = connection.dialect.name == "postgresql" and not is_partitioned(connection)
    advice = "; `log partition` partitions it by day" if large else ""
    return f"{engine.url.render_as_string(hide_password=True)}: writable{advice}"


def audit_log() -> str:
    settings = load_settings()
    for problem in audit.problems(open_registry(settings), audit.AuditLog(settings)):
        raise Failure(f"{problem}: find out who can write to that database")
    return "every line follows from the one before, and the registry agrees"


def champion() -> str:
    settings = load_settings()
    promote = f"uv run {current_project().name} promote"
    version = open_registry(settings).by_alias("champion")
    if not version:
        raise Later(f"there is none: `uv run dvc repro`, then `{promote}`")
    bundle = open_bundle(Path(settings.bundle))
    expected = version.number, version.tags.get("bundle_sha256")
    if (bundle.version, bundle.sha256) != expected:
        held = f"{settings.bundle} holds version {bundle.version}"
        raise Failure(f"{held}, the champion is {version.number}: `{promote}` puts it there")
    return f"version {version.number}, which is also in {settings.bundle}"


def disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < GIBIBYTES:
        raise Failure(f"{free:.1f} GiB free, {GIBIBYTES} are needed")
    return f"{free:.0f} GiB free"


COMMIT = "a version is traced to a commit (git init, git add, git commit)"
IDENTITY = "git config user.name 'Your Name', git config user.email you@example.com: dvc needs them"
REMOTE = "see `uv run dvc remote list`; uv run dvc remote add --default NAME URL"
# What others build on comes first.
CHECKS = (
    Check("git", partial(printed, "git", "--version")),
    Check("commit", partial(printed, "git", "rev-parse", "--verify", "HEAD"), COMMIT),
    Check("git identity", identity, IDENTITY),
    Check("repository", repository),
    Check("data files", data_files),
    Check("user", getpass.getuser, "dvc fails without a name: set USER to any name"),
    Check("command", console_script, "start dvc by `uv run dvc`"),
    Check("lock file", lock_file),
    Check("MLflow", tracking),
    Check("DVC remote", remote, REMOTE),
    Check("prediction log", prediction_log),
    Check("audit log", audit_log),
    Check("champion", champion),
    Check("disk", disk, "`uv run dvc gc --workspace` frees some"),
)


def ask(check: Check) -> tuple[str, str]:
    """Make one check; return its state (ok, no, later or note) and what it found or raised."""
    answer = "no", f"no answer for {SECONDS} seconds: is it reachable?"

    def make() -> None:
        nonlocal answer
        try:
            answer = "ok", first_line(check.ask())
        except Exception as error:  # a diagnosis goes on, whatever a tool raises
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            reason = first_line(f"{kind}{error}")
            mend = f": {check.mend}" if check.mend else ""
            answer = getattr(error, "state", "no"), f"{reason}{mend}"

    # In a thread, because some tools wait for minutes for what does not answer.
    thread = Thread(target=make, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answer


def first_line(text: str) -> str:
    return redacted(text.strip().partition("\n")[0])


# Modules beside this one, for a CI system each: FOLDER is there in a project that uses it, and
# findings() gives a line for each thing that is missing; a Later or a Note need not be mended.
SYSTEMS = ("github", "google", "aws")


def examine_ci() -> None:
    """Print what the project's CI system lacks; raise a Refusal if any of it is required."""
    used = [name for name in SYSTEMS if find_spec(f"mlops_loop.onboarding.{name}")]
    missing = 0
    for name in used:
        system = import_module(f"mlops_loop.onboarding.{name}")
        for finding in system.findings() if system.FOLDER.is_dir() else ():
            state = getattr(finding, "state", "no")
            missing += state == "no"
            print(f"{state:<5}  {name:<14}  {first_line(str(finding))}", flush=True)
    if missing:
        raise Refusal(f"the CI system lacks {missing} of the things above")
    print("the CI system has all that the project needs")


def doctor(ci: bool = False) -> None:
    """Print a line for each check; raise a Refusal if anything required is missing."""
    if ci:
        examine_ci()
        return
    states = {}
    for check in CHECKS:
        states[check.name], what = ask(check)
        print(f"{states[check.name]:<5}  {check.name:<14}  {what}", flush=True)
    if missing := [name for name, state in states.items() if state == "no"]:
        raise Refusal(f"not in order: {', '.join(missing)}")
    notes = " but for what is noted above" if "note" in states.values() else ""
    print(f"everything is in order{notes}")
