import os
import shutil
import tomllib
import uuid
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from filelock import FileLock

from mlops_loop.base import files
from mlops_loop.base.params import load_params
from mlops_loop.base.project import Project, use
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import ingest, tables
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.serving.app import create_app

from .skips import Report, fail_unless_allowed
from .tasks import ask_for, change, example_tasks

ROOT = Path(__file__).resolve().parents[3]  # the project around this package
STAGES = {"ingest": "data", "validate": "data", "split": "data"}
STAGES |= dict.fromkeys(("train", "evaluate", "export"), "training")
TASK_MATTERS = ("test_api", "test_card", "test_gates", "test_model", "test_monitor")
ROWS = 8000  # of the project's own data, on which the tests work
# Of a server, if one is named: then everything here is tested against that.
SERVER = os.environ.get("MLFLOW_TRACKING_URI", "")


def use_registry(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give a test an empty registry of its own."""
    if not SERVER.startswith("http"):
        # Absolute, because MLflow remembers where a relative one was first.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.as_posix()}/mlflow.db")
    patch.setenv("MLFLOW_EXPERIMENT_NAME", f"test-{uuid.uuid4().hex}")


def edit(path: Path, old: str, new: str) -> None:
    """Replace a part of a file, which must be in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def model_file() -> Path:
    """Return the model in the candidate's bundle, whatever its format."""
    (path,) = files.BUNDLE.glob("model.*")
    return path


def run_stages(*names: str) -> None:
    for name in names:
        import_module(f"mlops_loop.{STAGES[name]}.{name}").main()


def surrounding_project() -> Project:
    """Return the project that its console script hands to the loop."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    (module,) = (target.partition(":")[0] for target in scripts.values())
    return import_module(module).PROJECT


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one thread: the threads of more would wait for each other."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    use(surrounding_project())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of what differs by task with each task of the example."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in TASK_MATTERS and "task" in metafunc.fixturenames:
        metafunc.parametrize("task", example_tasks(ROOT), indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a finished pipeline: `-m "not pipeline"` leaves the fast unit tests."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.pipeline)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    return fail_unless_allowed((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    return fail_unless_allowed((yield))


@pytest.fixture(scope="session")
def task(request: pytest.FixtureRequest) -> str | None:
    """The task of the example to run, or None: the project's own."""
    return getattr(request, "param", None)


@pytest.fixture(scope="session")
def finished(task: str | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage ran on some 8,000 rows of the project's data."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # one folder for all workers
    folder = shared / f"finished-{task or 'own'}"
    done = Path(f"{folder}.done")
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            folder.mkdir()
            finish(folder, task)
            done.touch()
    return folder


def finish(folder: Path, task: str | None) -> None:
    """Run every stage in `folder`, with short training."""
    for file in (files.SCHEMA, files.PARAMS, files.BEHAVIOUR):
        shutil.copy(ROOT / file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_registry(patch, folder)
        if task:
            ask_for(task)
        source = load_params().ingest.source
        if isinstance(source, str) and (ROOT / source).exists():
            change(files.PARAMS, "ingest", source=str(ROOT / source))
        ingest.store(load_schema(), load_params().ingest)
        table = tables.read_table(files.RAW)
        table.iloc[:: max(1, len(table) // ROWS)].to_parquet("sample.parquet")
        change(files.SCHEMA, min_rows=1)
        change(files.PARAMS, "ingest", source="sample.parquet")
        change(files.PARAMS, "train", model="gradient_boosting", gradient_boosting={"max_iter": 20})
        change(files.PARAMS, "monitor", resamples=300)
        change(files.PARAMS, "evaluate", baseline_by=None)  # so short a training beats only this
        run_stages(*STAGES)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, for one test to work in and change; its bundle is served."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    use_registry(monkeypatch, tmp_path / "project")
    for name in ("API_KEYS", "ALERT_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUNDLE", str(files.BUNDLE))
    return tmp_path / "project"


@pytest.fixture
def row(project: Path) -> dict[str, Any]:
    """A row that the served bundle's contract allows."""
    return dict(open_bundle(files.BUNDLE).manifest.example)


@pytest.fixture
def client(project: Path) -> Iterator[TestClient]:
    """A client of the API, in this process."""
    with TestClient(create_app(), "http://127.0.0.1") as client:
        yield client
