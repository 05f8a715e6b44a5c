"""What all tests share: rendering a project as a user would, and running commands in it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tools import fail_unless_allowed

TEMPLATE = Path(__file__).parent.parent
TREE = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))

# What would lead a command in a project to the template's environment or to the tester's servers.
# (What tells uv about index, cache, certificates and network stays.)
# fmt: off
LEAKS = (
    "ALERT_", "API_KEYS", "BUNDLE", "COVERAGE_", "DVC_", "GIT_DIR", "GIT_INDEX_FILE",
    "GIT_WORK_TREE", "MLFLOW_", "OPENLINEAGE_", "PREDICTION_LOG_URL", "PYTEST_", "PYTHONHOME",
    "PYTHONPATH",
    "UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC", "UV_PROJECT", "UV_WORKING_DIR", "VIRTUAL_ENV",
)
# fmt: on

# What loads nearly all libraries of a project.
LOADED = (
    "dvc.cli, evidently, pytest, mlops_loop.data.validate, mlops_loop.training.evaluate, "
    "mlops_loop.release.promote, mlops_loop.serving.app"
)

# One thread for each of pytest's own workers: more of them would wait for each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_unless_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_unless_allowed(report)
    return report


class Refused(Exception):  # noqa: N818 - not an error: it is what a test expects
    """Generation was refused; the text is the line that the user sees."""


@dataclass(frozen=True)
class Project:
    """A rendered project."""

    path: Path
    slug: str
    package: str
    said: str  # what cookiecutter printed

    def run(
        self,
        *args: str | Path,
        check: bool = True,
        timeout: float = 600,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, as its user would; unless check=False it must succeed."""
        done = execute(*args, cwd=self.path, timeout=timeout, env=env, input=input)
        if check and done.returncode:
            command = " ".join(map(str, args))
            pytest.fail(f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def uv(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's environment."""
        return self.run("uv", "run", *args, **options)


def execute(
    *args: str | Path,
    cwd: Path,
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program with the tester's environment, less what leaks, plus `env`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    return subprocess.run(
        [str(arg) for arg in args],
        cwd=cwd,
        env=clean | {"PYTHONIOENCODING": "utf-8"} | dict(env or {}),
        check=False,
        timeout=timeout,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def path_with(folder: Path, *programs: str) -> str:
    """Return a PATH on which only these programs are found (on Windows: only their folders)."""
    found = [Path(where) for program in programs if (where := shutil.which(program))]
    if os.name == "nt":
        return os.pathsep.join(str(program.parent) for program in found)
    folder.mkdir()
    for program in found:
        (folder / program.name).symlink_to(program)
    return str(folder)


def files(root: Path) -> set[str]:
    """Return the files below a folder, less those of git."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".git"}


def entries(folder: Path) -> set[str]:
    """Return what `ls` shows of a folder."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


Bake = Callable[..., Project]


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Return a function that renders a project with the real cookiecutter, in a new folder.

    Without `lock=True` uv is not on PATH, which saves the seconds that locking takes.
    """
    config = tmp_path_factory.mktemp("config") / "config.yaml"
    # Not the tester's own answers, and no traces in the tester's home.
    config.write_text(json.dumps({"replay_dir": str(config.parent / "replay")}), "utf-8")
    without_uv = path_with(tmp_path_factory.mktemp("bin") / "git-only", "git")

    def bake(
        *options: str | Path,
        template: Path = TEMPLATE,
        into: Path | None = None,
        lock: bool = False,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        **answers: str,
    ) -> Project:
        into = into or tmp_path_factory.mktemp("out")
        before = set(into.iterdir())
        done = execute(
            *(sys.executable, "-m", "cookiecutter", template),
            *(() if options or input else ("--no-input",)),
            *("--config-file", config, "--output-dir", into, *options),
            *(f"{key}={value}" for key, value in answers.items()),
            cwd=into,
            env=({} if lock else {"PATH": without_uv}) | dict(env or {}),
            input=input,
        )
        if done.returncode:
            refusals = [line for line in done.stderr.splitlines() if line.startswith("Refused: ")]
            if len(refusals) != 1:
                pytest.fail(f"cookiecutter: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
            raise Refused(refusals[0])
        (path,) = set(into.iterdir()) - before
        return Project(path, path.name, path.name.replace("-", "_"), done.stdout)

    return bake


@pytest.fixture(scope="session")
def rendered(bake: Bake) -> Project:
    """Return the default project, not locked and not installed. Leave it as it is."""
    return bake()


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], Project]) -> Project:
    """Return what `make` makes, which only the first of pytest's workers does."""
    base = factory.getbasetemp()
    if WORKER:
        base = base.parent  # the one folder of all workers
    kept = base / f"{name}.json"
    with FileLock(base / f"{name}.lock"):
        if not kept.exists():
            made = make()
            kept.write_text(json.dumps(asdict(made) | {"path": str(made.path)}), "utf-8")
    known = json.loads(kept.read_text("utf-8"))
    return Project(**known | {"path": Path(known["path"])})


@pytest.fixture(scope="session")
def installed(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the default project, locked and installed. Leave it as it is."""

    def make() -> Project:
        project = bake(lock=True)
        project.run("uv", "sync")
        project.uv("python", "-c", f"import {LOADED}")  # so each copy has its byte code
        return project

    return once(tmp_path_factory, "installed", make)


def copy(project: Project, into: Path, *, promoted: bool = False) -> Project:
    """Return a copy to change: with data, caches and bundle; registry and champion if promoted."""
    left_out = [".venv", "serving-env*"]  # environments hold their own path
    if not promoted:
        left_out += [".mlflow", "champion", "predictions.db*"]
    ignore = shutil.ignore_patterns(*left_out)
    shutil.copytree(project.path, into / project.slug, ignore=ignore, symlinks=True)
    copied = replace(project, path=into / project.slug)
    copy_environment(project, copied)
    return copied


def copy_environment(project: Project, to: Project) -> None:
    """Give a project the environment of another one, byte code too: compiling it takes 20 s.

    Its packages are linked; what holds the path of the project is written anew.
    """
    source, target = project.path / ".venv", to.path / ".venv"
    if not source.is_dir() or target.exists():
        return
    unfinished = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(source, target, symlinks=True, copy_function=os.link, ignore=unfinished)
    before, after = bytes(project.path), bytes(to.path)
    packages = next(target.glob("lib/python*/site-packages"), target / "Lib/site-packages")
    mine = packages.glob("_editable_impl_*.pth"), packages.glob("*.dist-info/direct_url.json")
    for path in (*chain(*mine), *(target / "bin").glob("*"), *(target / "Scripts").glob("*")):
        if not path.is_symlink() and before in (content := path.read_bytes()):
            mode = path.stat().st_mode
            path.unlink()  # the link, not what it leads to
            path.write_bytes(content.replace(before, after))
            path.chmod(mode)


@contextmanager
def serving(project: Project, *command: str, **env: str) -> Iterator[str]:
    """Run a server's command in the project on a free loopback port; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    with (project.path / f"server-{port}.log").open("w+") as log:
        options: dict[str, Any] = {"cwd": project.path, "stdout": log, "stderr": log}
        process = subprocess.Popen([*command, "--port", port], env=clean | env, **options)
        try:
            for _ in range(600):
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                    break
                if process.poll() is not None:
                    log.seek(0)
                    pytest.fail(f"{' '.join(command)}: exit {process.returncode}\n{log.read()}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def pipeline(installed: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a default project that was trained and promoted. Leave it as it is.

    It is trained once; of several workers each has a copy, as DVC lets one command in at a time.
    """

    def make() -> Project:
        trained = copy(installed, tmp_path_factory.mktemp("trained"))
        trained.uv("dvc", "repro", timeout=1200)
        trained.uv(trained.slug, "promote")
        return trained

    pipeline = once(tmp_path_factory, "pipeline", make)
    if WORKER:
        pipeline = copy(pipeline, tmp_path_factory.mktemp("pipeline"), promoted=True)
    yield pipeline
    on_record = pipeline.uv(pipeline.slug, "audit", "--json").stdout.splitlines()
    assert len(on_record) == 1, "a test left its traces in the shared project"
