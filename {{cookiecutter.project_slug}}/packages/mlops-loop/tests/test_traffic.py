"""A challenger beside the champion: in the shadow, or as a canary."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.scoring.bundle import MANIFEST, PROMOTION, Manifest, read_document, write_manifest
from mlops_loop.serving.app import create_app
from mlops_loop.serving.hot_reload import breaking_changes

from .conftest import change
from .server import logged, until, value

CHALLENGER = Path("challenger")


@pytest.fixture
def serving(project, monkeypatch) -> Iterator[Callable[[str], TestClient]]:
    """What serves with some TRAFFIC, and version 9 as the challenger."""
    shutil.copytree(files.BUNDLE, CHALLENGER)
    files.write_json(CHALLENGER / PROMOTION, {"version": "9"})
    monkeypatch.setenv("CHALLENGER", str(CHALLENGER))
    with ExitStack() as stack:

        def serve(traffic: str) -> TestClient:
            monkeypatch.setenv("TRAFFIC", traffic)
            return stack.enter_context(TestClient(create_app(), "http://127.0.0.1"))

        yield serve


def loaded(client: TestClient) -> bool:
    return client.get("/health/ready").json().get("challenger") == "9"


def answered(client: TestClient, row: dict, rows: int) -> tuple[str, list[dict]]:
    """Ask for so many equal rows: each number of rows is another request."""
    answer = client.post("/v1/predict", json={"rows": [row] * rows}).json()
    return answer["model_version"], answer["predictions"]


def test_a_shadow_scores_what_the_champion_answers(serving, row) -> None:
    client = serving("shadow")
    until(lambda: loaded(client))
    version, predictions = answered(client, row, 3)
    assert version != "9"
    until(lambda: len(logged()) == 6)
    beside = [line for line in logged() if line["variant"] == "shadow"]
    assert {line["model_version"] for line in beside} == {"9"}
    assert [line["paired_with"] for line in beside] == [line["id"] for line in predictions]
    assert [line["features"] for line in beside] == [row] * 3
    assert all(line["paired_with"] is None for line in logged() if line["variant"] == "champion")


def test_requests_that_are_sent_again_have_a_shadow_too_and_one(serving, row) -> None:
    client = serving("shadow")
    until(lambda: loaded(client))
    for _ in range(3):
        headers = {"Idempotency-Key": "k"}
        client.post("/v1/predict", json={"rows": [row]}, headers=headers).raise_for_status()
    until(lambda: {line["variant"] for line in logged()} == {"champion", "shadow"})
    assert len(logged()) == 2


def test_a_canary_answers_its_share_and_always_the_same_requests(serving, row) -> None:
    client = serving("canary:0.3")
    until(lambda: loaded(client))
    first = [answered(client, row, rows)[0] for rows in range(1, 201)]
    again = [answered(client, row, rows)[0] for rows in range(1, 21)]
    assert first[:20] == again
    assert 30 <= first.count("9") <= 90  # of 200: three standard deviations are 19 either way
    for line in logged():
        assert (line["model_version"] == "9") == (line["variant"] == "canary")
    shutil.rmtree(CHALLENGER)  # as when it is promoted, or another model is
    until(lambda: "9" not in {answered(client, row, rows)[0] for rows in range(1, 41)})


def test_a_challenger_that_cannot_be_served_leaves_the_champion_alone(serving, row) -> None:
    manifest = read_document(CHALLENGER / MANIFEST, Manifest)
    (CHALLENGER / MANIFEST).write_text(json.dumps({"files": {}}))
    client = serving("canary:1")

    def refused() -> str:
        return client.get("/health/ready").json().get("refused", {}).get("canary", "")

    until(refused)
    assert answered(client, row, 1)[0] != "9"
    until(lambda: value(client.get("/metrics").text, "model_refused", 'variant="canary"') == 1)
    # Of another contract: it would refuse rows that the champion takes.
    name = next(name for name, column in load_schema().features.items() if column.nullable)
    change(CHALLENGER / "schema.yaml", "columns", name, nullable=False)
    write_manifest(CHALLENGER, manifest)
    until(lambda: "differs from the champion" in refused())
    assert answered(client, row, 1)[0] != "9"


@pytest.mark.parametrize("text", ["all", "canary", "canary:2", "canary:-0.1", "shadow:0.1"])
def test_traffic_that_means_nothing_is_refused(project, monkeypatch, text) -> None:
    monkeypatch.setenv("TRAFFIC", text)
    with pytest.raises(Failure, match="TRAFFIC"):
        load_settings()


def test_a_model_that_answers_another_question_is_no_successor(project) -> None:
    schema = load_schema()
    target = schema.columns[schema.target]

    def of_target(**facts: object) -> list[str]:
        columns = schema.columns | {schema.target: target.model_copy(update=facts)}
        return breaking_changes(schema.model_copy(update={"columns": columns}), schema)

    other = schema.model_copy(update={"name": "other", "description": "other"})
    assert breaking_changes(schema, other) == of_target(description="other") == []
    assert breaking_changes(schema, schema.model_copy(update={"target": "other"})) == ["target"]
    if schema.classes:
        places = of_target(categories=(*schema.classes, "another"))
        assert places == [f"columns.{schema.target}.categories"]
