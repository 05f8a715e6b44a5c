import json
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }} import cli, files
from {{ cookiecutter.__package_name }}.bundle import open_bundle
from {{ cookiecutter.__package_name }}.errors import Failure
from {{ cookiecutter.__package_name }}.serve import log
from {{ cookiecutter.__package_name }}.serve.app import create_app


@pytest.fixture
def row(project) -> dict:
    return open_bundle(files.BUNDLE).manifest["example"]


@pytest.fixture
def client(project) -> TestClient:
    return TestClient(create_app())


def test_predictions_are_answered_and_logged(client, row) -> None:
    start = datetime.now(UTC)
    without_gap = {key: value for key, value in row.items() if key != "pressure"}
    body = {"rows": [row, without_gap, row | {"pressure": None}]}
    answer = client.post("/v1/predict", json=body).json()
    stored = log.read(log.open_log("sqlite:///predictions.db"), start, answer["model_version"])
    assert [line["features"] for line in stored] == body["rows"]
    for line, prediction in zip(stored, answer["predictions"], strict=True):
        assert {"id": line["id"], **line["output"]} == prediction
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)


WRONG = [{"carrier": "<script>"}, {"carrier": None}, {"distance": "100"}, {"distance": -1}]
WRONG += [{"distance": float("nan")}, {"departure_hour": 1.5}, {"<script>": 30}]


@pytest.mark.parametrize("change", WRONG)
def test_what_the_contract_forbids_is_refused_without_an_echo(client, row, change) -> None:
    body = json.dumps({"rows": [row | change]})
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    (name,) = change
    assert (name in answer.json()["detail"][0]["loc"]) == (name != "<script>")
    assert "<script>" not in answer.text


def test_keys_are_asked_for(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first,b:second")
    client = TestClient(create_app())
    for key, code in (("second", 200), ("third", 401), ("", 401), ("é", 401)):
        headers = {"X-API-Key": key.encode()}
        assert client.post("/v1/predict", json={"rows": [row]}, headers=headers).status_code == code
    assert client.get("/v1/model").status_code == 401
    assert client.get("/health/ready").status_code == 200


def test_documentation_comes_from_the_contract_and_needs_no_network(client, row) -> None:
    assert "//cdn" not in client.get("/docs").text
    shapes = client.get("/openapi.json").json()["components"]["schemas"]
    assert shapes["Rows"]["example"] == {"rows": [row]}
    assert shapes["Row"]["properties"]["distance"]["minimum"] == 10


def test_serving_is_refused_without_keys_off_loopback_or_with_a_changed_bundle(project) -> None:
    with pytest.raises(Failure, match="API_KEYS must be set"):
        cli.serve(host="0.0.0.0")
    with (files.BUNDLE / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(Failure, match=r"model\.onnx is missing or was changed"):
        cli.serve()
