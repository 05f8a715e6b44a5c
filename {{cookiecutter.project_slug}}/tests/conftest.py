import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from {{ cookiecutter.__package_name }} import evaluate, export, files, ingest, split, train, validate
from {{ cookiecutter.__package_name }}.params import load_params
from {{ cookiecutter.__package_name }}.schema import Schema, load_schema

ROOT = Path(__file__).parent.parent


def edit(path: Path, **changes: object) -> None:
    """Change keys of a YAML file; a key such as train__seed goes two levels deep."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage ran on every fortieth row of the real data, about 8,000."""
    folder = tmp_path_factory.mktemp("finished")
    for file in (files.SCHEMA, files.PARAMS):
        shutil.copy(ROOT / file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params, schema = load_params().ingest, load_schema()
        table = ingest.select(ingest.read_source(params.source), schema, params)
        table.iloc[::40].to_parquet("sample.parquet")
        edit(files.SCHEMA, min_rows=1000)
        edit(files.PARAMS, ingest__source="sample.parquet", train__gradient_boosting__max_iter=20)
        for stage in (ingest, validate, split, train, evaluate, export):
            stage.main()
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, for one test to work in and change; its bundle is served."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("API_KEYS", raising=False)
    monkeypatch.setenv("BUNDLE", str(files.BUNDLE))
    return tmp_path / "project"


@pytest.fixture
def schema(project: Path) -> Schema:
    return load_schema()


@pytest.fixture
def table(project: Path) -> pd.DataFrame:
    return files.read_table(files.RAW)
