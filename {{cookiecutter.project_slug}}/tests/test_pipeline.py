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
from {{ cookiecutter.__package_name }}.serve.app import create_app

from .conftest import edit, run_stages

CHAMPION = Path("build/champion")


def retrain(before: int, iterations: int) -> None:
    edit(files.PARAMS, f"max_iter: {before}\n", f"max_iter: {iterations}\n")
    run_stages("train", "evaluate", "export")


def test_a_worse_candidate_is_refused_and_a_better_one_crowned(project, monkeypatch) -> None:
    with pytest.raises(Failure, match="the candidate's own folder"):
        promote()
    monkeypatch.setenv("BUNDLE", str(CHAMPION))
    retrain(20, 5)
    first = promote()
    assert open_bundle(CHAMPION).version == first["version"] == "1"
    assert promote() == first | {"new": False}
    retrain(5, 1)
    with pytest.raises(Refusal, match="version 2 stays a challenger"):
        promote()
    assert open_bundle(CHAMPION).version == "1"
    retrain(1, 40)
    assert promote()["version"] == open_bundle(CHAMPION).version == "3"
    with (CHAMPION / "bundle.json").open("a") as manifest:
        manifest.write(" ")
    with pytest.raises(Failure, match=r"bundle\.json was changed"):
        open_bundle(CHAMPION)
    files.write_table(files.TEST, files.read_table(files.TEST).head(100))
    with pytest.raises(Failure, match="was not made"):
        promote()


def test_an_own_schema_goes_all_the_way(project, monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", str(CHAMPION))
    promote()
    text = files.SCHEMA.read_text(encoding="utf-8").replace("slice: true, ", "")
    gone = [line for line in text.splitlines() if not line.startswith("  wind_gust")]
    files.SCHEMA.write_text("\n".join(gone), encoding="utf-8")
    run_stages("ingest", "validate", "split", "train", "evaluate", "export")
    with pytest.raises(Failure, match="begin a new registry"):
        promote()


def test_a_tie_and_nan_are_refused() -> None:
    rivals = {"naive baseline": 0.6, "champion": 0.7}
    assert [len(objections(value, rivals)) for value in (0.71, 0.7, 0.5, float("nan"))] == [0, 1, 2, 2]


def send(table: pd.DataFrame) -> None:
    client = TestClient(create_app())
    for first in range(0, len(table), 500):
        rows = json.loads(table.iloc[first : first + 500].to_json(orient="records"))
        client.post("/v1/predict", json={"rows": rows}).raise_for_status()


def test_drift_is_seen_where_it_is_and_only_there(project) -> None:
    train_table = files.read_table(files.TRAIN)
    reference = pd.read_parquet(files.BUNDLE / "reference.parquet").drop(columns="prediction")
    same = train_table[reference.columns].sample(1500, random_state=1).assign(pressure=None)
    send(same.head(20))
    with pytest.raises(Failure, match=r"20 predictions .* are too few to judge"):
        monitor()
    send(same)
    found = monitor()
    assert not found["drift"]
    assert found["columns"]["pressure"] == {"method": "no value at all", "drifted": True}
    assert files.read_json(Path(found["report"]).parent / "summary.json") == found
    assert 'src="http' not in Path(found["report"]).read_text(encoding="utf-8")
    cold = dict.fromkeys(["temperature", "dew_point", "wind_speed", "wind_gust", "humidity"], 20.0)
    other = {"carrier": "HA", "dest": "HNL", "origin": "JFK", "weekday": "Sat", "distance": 4983.0}
    send(pd.concat([same.assign(**cold, **other)] * 5))
    assert monitor()["drift"]
    edit(files.PARAMS, "drift_share: 0.5", "drift_share: 1.0")
    assert not monitor()["drift"]
