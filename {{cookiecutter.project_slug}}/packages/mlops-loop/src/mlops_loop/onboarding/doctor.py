"""Doctor: whether everything that the project needs is there, reachable and writable."""

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import metadata
from pathlib import Path
from threading import Thread

import sqlalchemy as sa

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.base.params import Sql, load_params
from mlops_loop.base.project import command, current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.onboarding.git import tracked_data
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.release import audit
from mlops_loop.release.audit_report import problems
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.tracking.registry import by_alias, open_registry
from mlops_loop.tracking.session import session

SECONDS = 60  # without an answer, after which a check has failed
GIBIBYTES = 2  # an environment and a few versions of the data
STALE = 1  # uv's exit code of a lock file that is out of step; its other failures are 2
AT_THE_ROOT = (".github", ".pre-commit-config.yaml")  # read at a repository's root only


@dataclass(frozen=True)
class Check:
    name: str
    state: str  # ok, no, later (not there yet, or not needed by all) or note
    what: str  # what was found and, unless it is ok, how to mend it


class Later(Failure):
    """What is missing is not needed yet."""


class Note(Failure):
    """Something to know, which need not be mended."""


def run(*program: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(program, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise Failure(f"{program[0]} is not installed") from None


def program(*program: str) -> str:
    """Return the last line that a program prints; raise a Failure with its reason if it fails."""
    done = run(*program)
    if done.returncode:
        raise Failure(reason(done))
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return a program's own words on why it failed."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "fatal:"))]
    return (errors or lines[-1:] or [f"it ended with {done.returncode}"])[0]


def uv_program() -> str:
    if path := os.environ.get("UV") or shutil.which("uv"):
        return path
    raise Failure("not installed: see https://docs.astral.sh/uv")


def git() -> str:
    if not shutil.which("git"):
        raise Failure("not installed: see https://git-scm.com")
    version = program("git", "--version")
    if run("git", "rev-parse", "--verify", "HEAD").returncode:
        why = "no commit here, and a version is traced to one"
        raise Failure(f"{why}: git init, git add, git commit")
    return version


def git_identity() -> str:
    known = []
    for key, example in {"user.name": "'Your Name'", "user.email": "you@example.com"}.items():
        known.append(run("git", "config", key).stdout.strip())
        if not known[-1]:
            what = "commits and `dvc exp run` need it"
            raise Failure(f"git knows no {key}, and {what}: git config {key} {example}")
    return " ".join(known)


def repository() -> str:
    """See whether what works at a repository's root only is there."""
    top = run("git", "rev-parse", "--show-toplevel")
    if top.returncode:
        raise Later("there is none yet")
    root = Path(top.stdout.strip()).resolve()
    here = Path.cwd().resolve()
    idle = [name for name in AT_THE_ROOT if Path(name).exists()]
    if root != here and idle:
        place = here.relative_to(root).as_posix()
        mend = f"move them to {root}, with working-directory: {place} in the workflows"
        raise Note(f"{' and '.join(idle)} do not run in a folder of a repository: {mend}")
    return f"its root is {root}"


def user() -> str:
    """See whether the user has a name: dvc, run by hand, fails without."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        here = f"uid {os.getuid()} has no name"
        raise Failure(f"{here}, and dvc fails without one: set USER to any name") from None


def console_script() -> str:
    """See whether the stages of a dvc that is run by hand would find this environment."""
    (expected,) = command()
    found = shutil.which(current_project().name)
    if found is None or Path(found).resolve() != Path(expected).resolve():
        other = f"finds {found}" if found else "finds none"
        raise Note(f"PATH {other}, and not {expected}: start dvc by `uv run dvc`")
    return expected


def data_files() -> str:
    found = tracked_data()
    if found:
        path = found[0].as_posix()
        size = f"{path} ({found[0].stat().st_size / 1e6:,.0f} MB) is in git"
        more = f", and {len(found) - 1} more tables" * (len(found) > 1)
        raise Failure(f"{size}{more}: git rm --cached {path}, then uv run dvc add {path}")
    return "git holds no large table"


def uv() -> str:
    return program(uv_program(), "--version")


def docker() -> str:
    if not shutil.which("docker"):
        raise Later("not installed: only what is in deploy/ needs it")
    try:
        program("docker", "ps", "--quiet")
    except Failure:
        raise Later("no engine answers: start it before you use what is in deploy/") from None
    return program("docker", "--version")


def python() -> str:
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    required = metadata(current_project().name)["Requires-Python"]
    if version not in SpecifierSet(required):
        what = f"pyproject.toml requires {required}"
        raise Failure(f"{version}, but {what}: uv sync --python VERSION")
    return version


def lock_file() -> str:
    if not Path("uv.lock").is_file():
        raise Failure("there is no uv.lock: uv lock, then commit it")
    # Offline: a lock file in step needs no index, and one out of step might wait for it.
    done = run(uv_program(), "lock", "--check", "--offline")
    if done.returncode == STALE:
        raise Failure("uv.lock is not in step with pyproject.toml: uv lock, then commit it")
    if done.returncode:
        raise Failure(f"uv cannot check it: {reason(done)}")
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
    from dvc.config import Config
    from dvc.fs import get_cloud_fs

    # By default it tries five times with growing pauses.
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
    config = Config.from_cwd()
    name = config["core"].get("remote")
    if not name:
        raise Failure("DVC has no default remote: uv run dvc remote add --default NAME URL")
    kind, options, root = get_cloud_fs(config, name=name)
    system = kind(**options)
    probe = system.join(root, f"doctor-{uuid.uuid4().hex}")
    try:
        system.makedirs(root, exist_ok=True)
        system.pipe_file(probe, b"written")
        system.remove(probe)
    except Exception as error:  # each of its file systems has its own
        why = f"{type(error).__name__}: {first_line(str(error))}"
        raise Failure(f"{name} cannot be written ({why}): see `uv run dvc remote list`") from None
    return f"{name}: writable"


def prediction_log() -> str:
    engine = open_log(load_settings().prediction_log_url)
    row = {
        "id": uuid.uuid4().hex,
        "time": datetime.now(UTC),
        "model_version": "doctor",
        "latency_ms": 0.0,
    }
    with engine.connect() as connection:  # left without a commit: rolled back
        connection.execute(sa.insert(PREDICTIONS), row | {"features": {}, "output": {}})
    return f"{engine.url.render_as_string(hide_password=True)}: writable"


def audit_log() -> str:
    settings = load_settings()
    log = audit.open_audit(settings.prediction_log_url)
    if found := problems(open_registry(settings), log):
        verb = f"uv run {current_project().name} audit"
        raise Failure(f"{found[0]}: `{verb}` lists all; find out who can write to that database")
    return "every line follows from the one before, and the registry agrees"


def secrets() -> str:
    settings = load_settings()
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if os.environ.get("MLFLOW_TRACKING_USERNAME") and not password:
        raise Failure("MLFLOW_TRACKING_USERNAME is set, but not MLFLOW_TRACKING_PASSWORD: set both")
    source = load_params().ingest.source
    if isinstance(source, Sql) and not os.environ.get(source.url_env):
        what = "ingest.source in params.yaml reads the database's URL there"
        raise Failure(f"{source.url_env} is not set, and {what}")
    places = [f"{len(settings.keys())} API keys"] * bool(settings.keys())
    places += [f"API keys in {settings.api_keys_file}"] * bool(settings.api_keys_file)
    return ", ".join(places) or "no API keys: `serve` works on loopback only"


def champion() -> str:
    settings = load_settings()
    promote = f"uv run {current_project().name} promote"
    registry = open_registry(settings)
    version = by_alias(registry, "champion")
    if not version and not registry.versions():
        raise Later(f"nothing was ever promoted: `uv run dvc repro`, then `{promote}`")
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
    "git": git,
    "git identity": git_identity,
    "repository": repository,
    "data files": data_files,
    "uv": uv,
    "docker": docker,
    "Python": python,
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


def first_line(text: str) -> str:
    """Return the first line, without the name and password in a URL."""
    return redacted((text.strip().splitlines() or [""])[0])


def ask(name: str, check: Callable[[], str]) -> Check:
    """Make one check; whatever it raises becomes its line."""
    answers: list[Check] = []

    def answer() -> None:
        try:
            answers.append(Check(name, "ok", first_line(check())))
        except (Later, Note) as found:
            answers.append(Check(name, type(found).__name__.lower(), first_line(str(found))))
        except Failure as failure:
            answers.append(Check(name, "no", first_line(str(failure))))
        except Exception as error:  # a diagnosis goes on, whatever a tool raises
            answers.append(Check(name, "no", first_line(f"{type(error).__name__}: {error}")))

    # In a thread, because some tools wait for minutes for what does not answer.
    thread = Thread(target=answer, daemon=True)
    thread.start()
    thread.join(SECONDS)
    late = Check(name, "no", f"no answer for {SECONDS} seconds: is it reachable?")
    return answers[0] if answers else late


def doctor() -> None:
    """Print a line for each check; raise a Refusal if anything required is missing."""
    states = dict[str, str]()
    for name, check in CHECKS.items():
        found = ask(name, check)
        states[name] = found.state
        print(f"{found.state:<5}  {name:<14}  {found.what}", flush=True)
    if missing := [name for name, state in states.items() if state == "no"]:
        raise Refusal(f"not in order: {', '.join(missing)}")
    notes = " but for what is noted above" if "note" in states.values() else ""
    print(f"everything is in order{notes}")
