import json
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }} import files
from {{ cookiecutter.__package_name }}.bundle import open_bundle
from {{ cookiecutter.__package_name }}.errors import Failure, Refusal
from {{ cookiecutter.__package_name }}.monitor import monitor
from {{ cookiecutter.__package_name }}.promote import objections, promote
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.serve.app import create_app

from .conftest import change, run_stages

CHAMPION = Path("build/champion")


def retrain(honest: pd.DataFrame, noise: float) -> None:
    """Train on a table in which this share of the rows got each other's targets."""
    target = load_schema().target
    chosen = honest.sample(frac=noise, random_state=0).index
    table = honest.copy()
    table.loc[chosen, target] = honest.loc[chosen, target].sample(frac=1, random_state=1).to_numpy()
    files.write_table(files.TRAIN, table)
    run_stages("train", "evaluate", "export")


def test_a_worse_candidate_is_refused_and_a_better_one_crowned(project, monkeypatch) -> None:
    with pytest.raises(Failure, match="the candidate's own folder"):
        promote()
    monkeypatch.setenv("BUNDLE", str(CHAMPION))
    honest = files.read_table(files.TRAIN)
    retrain(honest, noise=0.4)
    first = promote()
    assert open_bundle(CHAMPION).version == first["version"] == "1"
    assert promote() == first | {"new": False}
    retrain(honest, noise=1)
    with pytest.raises(Refusal, match="version 2 stays a challenger"):
        promote()
    assert open_bundle(CHAMPION).version == "1"
    retrain(honest, noise=0)
    assert promote()["version"] == open_bundle(CHAMPION).version == "3"
    with (CHAMPION / "bundle.json").open("a") as manifest:
        manifest.write(" ")
    with pytest.raises(Failure, match=r"bundle\.json was changed"):
        open_bundle(CHAMPION)
    files.write_table(files.TEST, files.read_table(files.TEST).head(100))
    with pytest.raises(Failure, match="was not made"):
        promote()


def test_a_champion_whose_columns_are_gone_is_not_compared(project, monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", str(CHAMPION))
    promote()
    gone = list(load_schema().features)[-1]
    change(files.SCHEMA, "columns", **{gone: None})
    run_stages("ingest", "validate", "split", "train", "evaluate", "export")
    with pytest.raises(Failure, match="begin a new registry"):
        promote()


def test_a_tie_and_nan_are_refused() -> None:
    rivals = {"naive baseline": {"roc_auc": 0.6}, "champion": {"roc_auc": 0.7}}
    found = [objections({"roc_auc": x}, rivals, {"roc_auc": True}, 0) for x in (0.71, 0.7, 0.5, float("nan"))]
    assert [len(reasons) for reasons in found] == [0, 1, 2, 2]
    rivals = {"naive baseline": {"mae": 0.8}, "champion": {"mae": 0.7}}
    found = [objections({"mae": x}, rivals, {"mae": False}, 0.1) for x in (0.59, 0.65, 0.9, float("nan"))]
    assert [len(reasons) for reasons in found] == [0, 1, 2, 2]
    assert "mae 0.6500 is not below the champion's 0.6000" in found[1]


def send(table: pd.DataFrame) -> None:
    client = TestClient(create_app())
    for first in range(0, len(table), 500):
        rows = json.loads(table.iloc[first : first + 500].to_json(orient="records"))
        client.post("/v1/predict", json={"rows": rows}).raise_for_status()


def test_drift_is_seen_where_it_is_and_only_there(project) -> None:
    features = load_schema().features
    same = files.read_table(files.TRAIN)[list(features)].sample(1500, random_state=1, replace=True)
    empty = next((name for name, column in features.items() if column.nullable), None)
    same = same if empty is None else same.assign(**{empty: None})
    send(same.head(20))
    with pytest.raises(Failure, match=r"20 predictions .* are too few to judge"):
        monitor()
    send(same)
    found = monitor()
    assert not found["drift"]
    assert empty is None or found["columns"][empty] == {"method": "no value at all", "drifted": True}
    assert files.read_json(Path(found["report"]).parent / "summary.json") == found
    assert 'src="http' not in Path(found["report"]).read_text(encoding="utf-8")
    send(pd.concat([same.head(1)] * 5000))
    assert monitor()["drift"]
