"""Doctor: whether everything that the project needs is there, reachable and writable."""

import getpass
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread

import sqlalchemy as sa

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.base.params import Sql, load_params
from mlops_loop.base.project import command, current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.onboarding.git import git, run, tracked_data
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.release import audit
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.tracking.registry import open_registry
from mlops_loop.tracking.session import session

SECONDS = 60  # without an answer, after which a check has failed
GIBIBYTES = 2  # an environment and a few versions of the data
UV = os.environ.get("UV") or "uv"
STALE = 1  # uv's exit code of a lock file that is out of step; its other failures are 2
AT_THE_ROOT = (".github", ".pre-commit-config.yaml")  # read at a repository's root only
IDENTITY = {"user.name": "'Your Name'", "user.email": "you@example.com"}


class Aside(Failure):
    """Something that need not be mended now: `later` is not needed by all or yet, or a `note`."""

    def __init__(self, state: str, what: str) -> None:
        super().__init__(what)
        self.state = state


def printed(*program: str) -> str:
    """Return what a program prints; raise a Failure with its own words if it fails."""
    done = run(*program)
    if not done.returncode:
        return done.stdout.strip()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "fatal:"))]
    raise Failure((errors or lines[-1:] or [f"it ended with {done.returncode}"])[0])


def commit() -> str:
    version = printed("git", "--version")
    if git("rev-parse", "--verify", "HEAD").returncode:
        why = "no commit here, and a version is traced to one"
        raise Failure(f"{why}: git init, git add, git commit")
    return version


def git_identity() -> str:
    for key, example in IDENTITY.items():
        if not git("config", key).stdout:
            what = "commits and `dvc exp run` need it"
            raise Failure(f"git knows no {key}, and {what}: git config {key} {example}")
    return f"git knows {' and '.join(IDENTITY)}"


def repository() -> str:
    top = git("rev-parse", "--show-toplevel")
    if top.returncode:
        raise Aside("later", "there is none yet")
    root = Path(top.stdout.strip()).resolve()
    place = Path.cwd().resolve().relative_to(root).as_posix()
    idle = " and ".join(name for name in AT_THE_ROOT if Path(name).exists())
    if idle and place != ".":
        mend = f"move them to {root}, with working-directory: {place} in the workflows"
        raise Aside("note", f"{idle} do not run in a folder of a repository: {mend}")
    return f"its root is {root}"


def data_files() -> str:
    for path in tracked_data():
        mend = f"git rm --cached {path}, then uv run dvc add {path}"
        raise Failure(f"{path} ({path.stat().st_size / 1e6:,.0f} MB) is in git: {mend}")
    return "git holds no large table"


def docker() -> str:
    try:
        printed("docker", "ps", "--quiet")
        return printed("docker", "--version")
    except Failure as failure:
        raise Aside("later", f"{failure}: only what is in deploy/ needs it") from None


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        here = f"uid {os.getuid()} has no name"
        raise Failure(f"{here}, and dvc fails without one: set USER to any name") from None


def console_script() -> str:
    """See whether the stages of a dvc that is run by hand would find this environment."""
    (expected,) = command()
    found = shutil.which(current_project().name) or "none"
    if Path(found).resolve() != Path(expected).resolve():
        mend = "start dvc by `uv run dvc`"
        raise Aside("note", f"PATH finds {found}, and not {expected}: {mend}")
    return expected


def lock_file() -> str:
    # Offline: a lock file in step needs no index, and one out of step might wait for it.
    check = UV, "lock", "--check", "--offline"
    if run(*check).returncode == STALE or not Path("uv.lock").is_file():
        raise Failure("uv.lock is not in step with pyproject.toml: uv lock, then commit it")
    printed(*check)
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
    name = Repo().config["core"].get("remote")
    if not name:
        raise Failure("DVC has no default remote: uv run dvc remote add --default NAME URL")
    try:
        found = Repo().cloud.get_remote(name)
        probe = found.fs.join(found.path, f"doctor-{uuid.uuid4().hex}")
        found.fs.makedirs(found.path, exist_ok=True)
        found.fs.pipe_file(probe, b"written")
        found.fs.remove(probe)
    except Exception as error:  # each of its file systems has its own
        why = f"{type(error).__name__}: {first_line(str(error))}"
        raise Failure(f"{name} cannot be written ({why}): see `uv run dvc remote list`") from None
    return f"{name}: writable"


def prediction_log() -> str:
    engine = open_log(load_settings().prediction_log_url)
    row = {"id": uuid.uuid4().hex, "time": datetime.now(UTC), "latency_ms": 0.0}
    row |= {"model_version": "doctor", "features": {}, "output": {}}
    with engine.connect() as connection:  # left without a commit: rolled back
        connection.execute(sa.insert(PREDICTIONS), row)
    return f"{engine.url.render_as_string(hide_password=True)}: writable"


def audit_log() -> str:
    settings = load_settings()
    log = audit.AuditLog(settings)
    for problem in audit.problems(open_registry(settings), log):
        verb = f"uv run {current_project().name} audit"
        raise Failure(f"{problem}: `{verb}` lists all; find out who can write to that database")
    return "every line follows from the one before, and the registry agrees"


def secrets() -> str:
    settings = load_settings()
    source = load_params().ingest.source
    password = "MLFLOW_TRACKING_PASSWORD" if os.environ.get("MLFLOW_TRACKING_USERNAME") else ""
    for name in (password, source.url_env if isinstance(source, Sql) else ""):
        if name and not os.environ.get(name):
            by = "ingest.source in params.yaml" if name != password else "MLFLOW_TRACKING_USERNAME"
            raise Failure(f"{name} is not set, and {by} needs it: set both")
    return "API keys are set" if settings.asks_for_keys else "none: `serve` works on loopback only"


def champion() -> str:
    settings = load_settings()
    promote = f"uv run {current_project().name} promote"
    registry = open_registry(settings)
    version = registry.by_alias("champion")
    if not version and not registry.versions():
        raise Aside("later", f"nothing was ever promoted: `uv run dvc repro`, then `{promote}`")
    if not version:
        raise Failure(f"versions are registered, but none is champion: `{promote}` a better one")
    bundle = open_bundle(Path(settings.bundle))
    expected = version.tags.get("bundle_sha256")
    if (bundle.version, bundle.sha256) != (version.number, expected):
        held = f"{settings.bundle} holds version {bundle.version}"
        raise Failure(f"{held}, the champion is {version.number}: `{promote}` puts it there")
    return f"version {version.number}, which is also in {settings.bundle}"


def disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < GIBIBYTES:
        mend = "`uv run dvc gc --workspace` frees some"
        raise Failure(f"{free:.1f} GiB free, {GIBIBYTES} are needed: {mend}")
    return f"{free:.0f} GiB free"


# What others build on comes first.
CHECKS: dict[str, Callable[[], str]] = {
    "git": commit,
    "git identity": git_identity,
    "repository": repository,
    "data files": data_files,
    "uv": partial(printed, UV, "--version"),
    "docker": docker,
    "user": user,
    "command": console_script,
    "lock file": lock_file,
    "MLflow": tracking,
    "DVC remote": remote,
    "prediction log": prediction_log,
    "audit log": audit_log,
    "secrets": secrets,
    "champion": champion,
    "disk": disk,
}


def ask(check: Callable[[], str]) -> tuple[str, str]:
    """Make one check; return its state (ok, no, later or note) and what it found or raised."""
    answer = "no", f"no answer for {SECONDS} seconds: is it reachable?"

    def make() -> None:
        nonlocal answer
        try:
            answer = "ok", first_line(check())
        except Failure as failure:
            answer = getattr(failure, "state", "no"), first_line(str(failure))
        except Exception as error:  # a diagnosis goes on, whatever a tool raises
            answer = "no", first_line(f"{type(error).__name__}: {error}")

    # In a thread, because some tools wait for minutes for what does not answer.
    thread = Thread(target=make, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answer


def first_line(text: str) -> str:
    return redacted(text.strip().partition("\n")[0])


def doctor() -> None:
    """Print a line for each check; raise a Refusal if anything required is missing."""
    states = {}
    for name, check in CHECKS.items():
        states[name], what = ask(check)
        print(f"{states[name]:<5}  {name:<14}  {what}", flush=True)
    if missing := [name for name, state in states.items() if state == "no"]:
        raise Refusal(f"not in order: {', '.join(missing)}")
    notes = " but for what is noted above" if "note" in states.values() else ""
    print(f"everything is in order{notes}")
