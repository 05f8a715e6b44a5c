import json
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pandas as pd
import pytest
import requests
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project
from mlops_loop.batch.score import score
from mlops_loop.cli import operate as serving
from mlops_loop.contract.schema import load_schema
from mlops_loop.data.cast import check_rows
from mlops_loop.data.derived import with_derived
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.scoring.bundle import MANIFEST, read_document
from mlops_loop.scoring.manifest import Manifest
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.serving.app import create_app

from .conftest import model_file
from .contract import invalid_rows, valid_rows
from .server import SERVED, install, logged, read_log, running, until

ANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def numbers(answer: dict) -> list[float]:
    """The numbers in an answer: probabilities in the classes' order, or value and interval."""
    if "probabilities" in answer:
        return [answer["probabilities"][name] for name in sorted(answer["probabilities"])]
    return [answer["value"], *answer["interval"]]


def test_predictions_are_answered_and_logged(client, row) -> None:
    start = datetime.now(UTC)
    optional = [name for name, column in load_schema().inputs.items() if column.nullable]
    rows = [row, {key: value for key, value in row.items() if key not in optional}]
    rows += [row | dict.fromkeys(optional)]
    answer = client.post("/v1/predict", json={"rows": rows}).json()
    stored = read_log(open_log("sqlite:///predictions.db"), start, answer["model_version"])
    nothing = dict.fromkeys(optional)
    assert [line["features"] for line in stored] == [nothing | one for one in rows]
    for line, prediction in zip(stored, answer["predictions"], strict=True):
        assert {"id": line["id"], **line["output"]} == prediction
    assert numbers(answer["predictions"][1]) == numbers(answer["predictions"][2])


@ANY
@given(data=st.data())
def test_offline_and_online_agree_on_any_row_the_contract_allows(client, data) -> None:
    schema = load_schema()
    rows = data.draw(st.lists(valid_rows(schema), min_size=1, max_size=5))
    answer = client.post("/v1/predict", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    online = np.array([numbers(found) for found in answer.json()["predictions"]])

    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    *counts, _ = score("rows.jsonl", Path("scored.parquet"))
    assert counts == [len(rows), 0]
    batch = pd.read_parquet("scored.parquet").iloc[:, -online.shape[1] :].to_numpy()
    assert batch.astype(float) == pytest.approx(online, rel=1e-5, abs=1e-5)

    given_, _ = check_rows(pd.DataFrame(rows, columns=list(schema.inputs)), schema.inputs)
    table = with_derived(given_, schema)
    trained = scores(load(files.MODEL), table, schema)
    assert online[:, : trained.shape[1]] == pytest.approx(trained, rel=1e-5, abs=1e-5)


@ANY
@given(data=st.data())
def test_any_row_the_contract_forbids_is_refused_online_and_offline(client, data) -> None:
    row = data.draw(invalid_rows(load_schema()))
    assert client.post("/v1/predict", json={"rows": [row]}).status_code == 422
    Path("rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with suppress(Failure):  # of a row that is not even JSON
        *counts, _ = score("rows.jsonl", Path("scored.parquet"))
        assert counts == [0, 1]


def test_a_refusal_names_the_column_and_echoes_nothing(client, row) -> None:
    for name, column in load_schema().inputs.items():
        value = "<script>" if not column.allow_unknown else 7
        answer = client.post("/v1/predict", json={"rows": [row | {name: value}]})
        assert answer.status_code == 422
        assert name in answer.json()["detail"][0]["loc"]
        assert "<script>" not in answer.text
    answer = client.post("/v1/predict", json={"rows": [row | {"<script>": 30}]})
    assert (answer.status_code, "<script>" in answer.text) == (422, False)
    body = json.dumps({"rows": [row | dict.fromkeys(row, float("nan"))]})
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/predict", content=body, headers=headers).status_code == 400


def test_keys_are_asked_for(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first,b:second")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        for key, code in (("second", 200), ("third", 401), ("", 401), ("é", 401)):
            headers = {"X-API-Key": key.encode()}
            assert (
                client.post("/v1/predict", json={"rows": [row]}, headers=headers).status_code
                == code
            )
        for path in (
            "/v1/model",
            "/v2/models/other",
            "/no/such/path",
        ):  # without a key all that is not open is closed
            assert client.get(path).status_code == 401
        assert client.get("/health/ready").status_code == 200
    assert [line["key_name"] for line in logged()] == ["b"]


def test_documentation_comes_from_the_contract_and_needs_no_network(client, row) -> None:
    assert "//cdn" not in client.get("/docs").text
    shapes = client.get("/openapi.json").json()["components"]["schemas"]
    assert shapes["Rows"]["example"] == {"rows": [row]}
    assert list(shapes["Row"]["properties"]) == list(load_schema().inputs)
    for name, column in load_schema().inputs.items():
        assert column.description in json.dumps(
            shapes["Row"]["properties"][name], ensure_ascii=False
        )


@pytest.mark.parametrize("keys", ["", "a:first"])
@pytest.mark.parametrize("rate_limit", ["0", "1000"])
def test_the_openapi_document_says_which_keys_and_limits_are_in_force(
    project, monkeypatch, keys, rate_limit
) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    monkeypatch.setenv("RATE_LIMIT", rate_limit)
    with TestClient(create_app(), "http://127.0.0.1") as client:
        document = client.get("/openapi.json").json()
        assert document["info"]["title"] == current_project().name
        assert ("securitySchemes" in document["components"]) == bool(keys)
        closed = {"/v1/predict", "/v1/outcomes", "/v1/model"}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                answers = {int(code) for code in operation["responses"]}
                assert ("security" in operation) == (bool(keys) and path in closed)
                assert (401 in answers) == (bool(keys) and path in closed)
                assert (403 in answers) == (not keys and path in closed)
                assert (429 in answers) == (rate_limit != "0" and path in closed)
                # What the document says is what happens, without a key and from another host.
                code = client.request(method, path).status_code
                assert (code == 401) == (401 in answers)
                code = client.request(method, path, headers={"Host": "other.example"}).status_code
                assert (code == 403) == (403 in answers)


def test_the_model_has_the_projects_name_everywhere(client) -> None:
    name = current_project().name
    assert client.get("/v1/model").json()["name"] == name
    assert client.get("/v2").json()["name"] == name
    assert client.get(f"/v2/models/{name}").json()["name"] == name
    assert f"{name}</h1>" in client.get("/").text


def test_serving_is_refused_without_keys_off_loopback_or_with_a_changed_bundle(project) -> None:
    with pytest.raises(Failure, match="API_KEYS must be set"):
        serving.serve(host="0.0.0.0")
    with model_file().open("ab") as model:
        model.write(b"x")
    with pytest.raises(Failure, match=r"model\.\w+ is missing or was changed"):
        serving.serve()


def test_a_running_server_follows_its_bundle_and_drops_no_request(
    project, row, monkeypatch
) -> None:
    monkeypatch.setenv("BUNDLE", str(SERVED))
    install("1")
    stop, found = Event(), []

    def ask() -> None:
        while not stop.is_set():
            answer = requests.post(f"{address}/v1/predict", json={"rows": [row] * 20}, timeout=60)
            found.append((answer.status_code, answer.json().get("model_version")))

    def serves(version: str) -> bool:
        return len(found) >= 20 and {seen for _, seen in found[-20:]} == {version}

    with running("--workers", "2") as (address, _):
        asking = [Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        try:
            for version in ("1", "2", "3", "2"):
                install(version)
                until(lambda wanted=version: serves(wanted))
            log = Path("server.log")
            install("4", read_document(files.BUNDLE / MANIFEST, Manifest), graph=b"no graph")
            until(
                lambda: log.read_text().count("version 2 is served on") >= 2
            )  # said by each process
            shutil.rmtree(SERVED)
            until(lambda: log.read_text().count("there is no bundle") >= 2)
            found.clear()
            until(lambda: serves("2"))
            install("5")
            until(lambda: serves("5"))
        finally:
            stop.set()
            for thread in asking:
                thread.join()
    assert {code for code, _ in found} == {200}
    assert log.read_text().count("version 2 is served on") == 4  # once for each trouble and process
