"""What the prediction log knows of requests that were refused: how many, why, and which column."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
import sqlalchemy as sa
from fastapi.testclient import TestClient

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.rejected_requests import count_rejected
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


def tensors(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row as the Open Inference Protocol has it."""
    kinds = {name: ACCEPTED[load_schema().inputs[name].type][0] for name in row}
    return [
        {"name": name, "shape": [1], "datatype": kinds[name], "data": [value]}
        for name, value in row.items()
    ]


def test_refusals_are_counted_by_kind_and_column(project, row) -> None:
    needed = next(name for name, column in load_schema().inputs.items() if not column.nullable)
    less = {name: value for name, value in row.items() if name != needed}
    foreign = {"name": SECRET, "shape": [1], "datatype": "FP64", "data": [1]}
    codes = {"malformed": 400, "size": 413, "type": 415, "contract": 422}
    expected: Counter[tuple[str, str]] = Counter()
    with TestClient(create_app(), "http://127.0.0.1") as client:

        def send(kind: str, place: str, path: str = "/v1/predict", **body: Any) -> None:
            assert client.post(path, **body).status_code == codes[kind]
            expected[kind, place] += 1

        for name in row:
            send("contract", name, json={"rows": [row, row | {name: wrong(name)}]})
        send("contract", needed, json={"rows": [less]})
        send("contract", NOT_A_COLUMN, json={"rows": [row | {SECRET: SECRET}]})
        send("contract", "", json={SECRET: SECRET})
        send("contract", "", json={"rows": []})
        send("malformed", "", content=SECRET, headers=JSON)
        send("type", "", content=SECRET, headers={"Content-Type": "text/plain"})
        send("type", "", content=SECRET, headers=JSON | {"Content-Encoding": SECRET})
        send("size", "", json={"rows": [row] * 1001})
        for place, inputs in (
            (needed, tensors(less)),
            (needed, tensors(row | {needed: wrong(needed)})),
            (NOT_A_COLUMN, [*tensors(row), foreign]),
        ):
            send("contract", place, V2, json={"inputs": inputs})
        send("malformed", "", V2, content=SECRET, headers=JSON)
        send("type", "", V2, content=SECRET, headers={"Content-Type": "text/plain"})
        # What is no request for predictions, or was answered, is not among them.
        assert client.post("/v1/outcomes", json={SECRET: SECRET}).status_code == 422
        assert client.post(f"/v2/models/{SECRET}/infer", json={}).status_code == 404
        assert client.get("/v1/predict").status_code == 405
        assert client.post("/v1/predict", json={"rows": [row]}).status_code == 200
    assert refused() == expected
    with open_log(URL).connect() as connection:
        stored = [dict(line) for line in connection.execute(REFUSALS.select()).mappings()]
    assert SECRET not in str(stored)


def test_those_without_a_key_are_not_counted(project, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first")
    monkeypatch.setenv("RATE_LIMIT", "1")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        for key, status in (("none", 401), ("first", 422), ("first", 429)):
            answer = client.post("/v1/predict", json={"rows": 1}, headers={"X-API-Key": key})
            assert answer.status_code == status
    assert refused() == {("contract", ""): 1}


def test_refusals_are_in_the_log_within_seconds_from_all_workers(project, row) -> None:
    bad = json.dumps({"rows": [row | {SECRET: 1}]})
    expected = {("contract", NOT_A_COLUMN): 40}
    with running("--workers", "2") as (address, _):

        def send(body: str) -> int:  # each on a connection of its own: both processes are reached
            answer = requests.post(f"{address}/v1/predict", data=body, headers=JSON, timeout=60)
            return answer.status_code

        assert {send(bad) for _ in range(40)} == {422}
        until(lambda: refused() == expected)
        assert send("{") == 400
    assert refused() == expected | {("malformed", ""): 1}  # it is stopped: none is left


def test_what_is_read_begins_at_the_start_and_ends_before_the_end(project) -> None:
    engine, noon, hour = open_log(URL), datetime(2013, 1, 1, 12, tzinfo=UTC), timedelta(hours=1)
    rows = [
        {"id": f"{n}", "kind": "size", "place": "", "requests": n + 1, "time": noon + n * hour}
        for n in range(3)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(REFUSALS), rows)
    for first, last, found in (
        (0, 2, {("size", ""): 1 + 2}),
        (1, 2, {("size", ""): 2}),
        (9, 10, {}),
    ):
        assert count_rejected(engine, noon + first * hour, noon + last * hour) == found
    assert prune(engine, noon + hour) == 0  # predictions; of which there are none
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(REFUSALS.c.requests))) == 2 + 3
