import json
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }} import files
from {{ cookiecutter.__package_name }}.errors import Failure
from {{ cookiecutter.__package_name }}.monitor import monitor
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.serve.app import create_app


def send(table: pd.DataFrame) -> None:
    with TestClient(create_app(), "http://127.0.0.1") as client:
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
