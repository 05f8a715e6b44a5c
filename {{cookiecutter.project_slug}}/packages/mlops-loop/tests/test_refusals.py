"""What the prediction log knows of requests that were refused: how many, why, and which column."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from fastapi.testclient import TestClient

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.rejected_requests import RejectedCounter, count_rejected
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import REFUSALS
from mlops_loop.serving.app import create_app
from mlops_loop.serving.open_inference.tensors import ACCEPTED
from mlops_loop.serving.request_schema import NOT_A_COLUMN

from .server import running, until

NAME = current_project().name

URL = "sqlite:///predictions.db"
SECRET = "vulpes-vulpes"
V2 = f"/v2/models/{NAME}/infer"
JSON = {"Content-Type": "application/json"}


def refused() -> dict[tuple[str, str], int]:
    """All that was refused in the last hour."""
    now = datetime.now(UTC)
    return count_rejected(open_log(URL), now - timedelta(hours=1), now + timedelta(hours=1))


def wrong(name: str) -> Any:
    """A value that a column does not take, whatever it is."""
    return 7 if load_schema().inputs[name].type in ("category", "timestamp") else SECRET


def tensors(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A row as the Open Inference Protocol has it."""
    features = load_schema().inputs
    inputs = [
        {"name": name, "shape": [1], "datatype": ACCEPTED[features[name].type][0], "data": [value]}
        for name, value in row.items()
    ]
    return {"inputs": inputs} | changes


@pytest.fixture
def client(project: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A client whose server is started by the test, so that it can be stopped there."""
    return TestClient(create_app(), "http://127.0.0.1")


def test_refusals_are_counted_by_kind_and_column(client, row) -> None:
    needed = next(name for name, column in load_schema().inputs.items() if not column.nullable)
    expected: dict[tuple[str, str], int] = {}
    with client:

        def send(kind: str, place: str, path: str = "/v1/predict", **body: Any) -> None:
            answer = client.post(path, **body)
            assert (
                answer.status_code
                == {"malformed": 400, "size": 413, "type": 415, "contract": 422}[kind]
            )
            expected[kind, place] = expected.get((kind, place), 0) + 1

        for name in row:
            send("contract", name, json={"rows": [row, row | {name: wrong(name)}]})
        less = {name: value for name, value in row.items() if name != needed}
        send("contract", needed, json={"rows": [less]})
        send("contract", NOT_A_COLUMN, json={"rows": [row | {SECRET: SECRET}]})
        send("contract", "", json={SECRET: SECRET})
        send("contract", "", json={"rows": []})
        send("malformed", "", content=SECRET, headers=JSON)
        send("type", "", content=SECRET, headers={"Content-Type": "text/plain"})
        send("type", "", content=SECRET, headers=JSON | {"Content-Encoding": SECRET})
        send("size", "", json={"rows": [row] * 1001})
        send("contract", needed, V2, json=tensors(less))
        send("contract", needed, V2, json=tensors(row | {needed: wrong(needed)}))
        send("malformed", "", V2, content=SECRET, headers=JSON)
        send("type", "", V2, content=SECRET, headers={"Content-Type": "text/plain"})
        inputs = [
            *tensors(row)["inputs"],
            {"name": SECRET, "shape": [1], "datatype": "FP64", "data": [1]},
        ]
        send("contract", NOT_A_COLUMN, V2, json={"inputs": inputs})
        # What is no request for predictions, or was answered, is not among them.
        assert client.post("/v1/outcomes", json={SECRET: SECRET}).status_code == 422
        assert client.post(f"/v2/models/{SECRET}/infer", json={}).status_code == 404
        assert client.get("/v1/predict").status_code == 405
        assert client.post("/v1/predict", json={"rows": [row]}).status_code == 200
    assert refused() == expected
    with open_log(URL).connect() as connection:
        stored = [dict(line) for line in connection.execute(REFUSALS.select()).mappings()]
    assert SECRET not in str(stored)
    assert all(len(line["id"]) == 32 and line["requests"] >= 1 for line in stored)


def test_those_without_a_key_are_not_counted(project, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first")
    monkeypatch.setenv("RATE_LIMIT", "1")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        for key, status in (("none", 401), ("first", 422), ("first", 429)):
            answer = client.post("/v1/predict", json={"rows": 1}, headers={"X-API-Key": key})
            assert answer.status_code == status
    assert refused() == {("contract", ""): 1}


def test_refusals_are_in_the_log_within_seconds_from_all_workers(project, row) -> None:
    with running("--workers", "2") as (address, _):
        for _ in range(40):  # each on a connection of its own: some reach the one, some the other
            answer = requests.post(
                f"{address}/v1/predict", json={"rows": [row | {SECRET: 1}]}, timeout=60
            )
            assert answer.status_code == 422
        until(lambda: refused() == {("contract", NOT_A_COLUMN): 40})
        bad = json.dumps({"rows": [row]})[:-1]
        answer = requests.post(f"{address}/v1/predict", data=bad, headers=JSON, timeout=60)
        assert answer.status_code == 400
    assert refused() == {
        ("contract", NOT_A_COLUMN): 40,
        ("malformed", ""): 1,
    }  # it is stopped: none is left


def test_what_is_read_begins_at_the_start_and_ends_before_the_end(project) -> None:
    engine, noon = open_log(URL), datetime(2013, 1, 1, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    counts = [
        {("contract", "a" * 500): (n + 1, noon + n * hour), ("size", ""): (1, noon)}
        for n in range(3)
    ]
    with engine.begin() as connection:
        for count in counts:
            counter = RejectedCounter()
            counter.counts = count
            assert counter.has_rows()
            counter.insert(connection)
            counter.insert(connection)  # when nobody knows whether it was
    place = "a" * 128
    assert count_rejected(engine, noon, noon + 2 * hour) == {
        ("contract", place): 1 + 2,
        ("size", ""): 3,
    }
    assert count_rejected(engine, noon + hour, noon + 2 * hour) == {("contract", place): 2}
    assert count_rejected(engine, noon + 9 * hour, noon + 10 * hour) == {}
    assert prune(engine, noon + hour) == 0  # predictions; of which there are none
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(REFUSALS.c.requests))) == 2 + 3
