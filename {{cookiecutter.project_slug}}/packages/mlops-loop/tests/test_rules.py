"""Rules and dashboards: every metric exists, every alert has its section of the runbook."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from fastapi.testclient import TestClient

from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.prediction_log.window_summary import BOUNDS, VERDICTS
from mlops_loop.serving.app import create_app

from .conftest import ROOT
from .server import until, value

OBSERVE = ROOT / "deploy/observe"
DASHBOARDS = sorted((OBSERVE / "grafana/dashboards").glob("*.json"))
WORDS = {"and", "or", "unless", "bool", "offset", "group_left", "group_right"}  # of PromQL
UNTYPED = {"up"}  # Prometheus' own


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OBSERVE / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for path in DASHBOARDS for panel in json.loads(path.read_text("utf-8"))["panels"]]


def named(expression: str) -> set[str]:
    """The metrics in a PromQL expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b[a-z_:][\w:]*\b(?!\s*\()", bare)) - WORDS - UNTYPED


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + shown


@pytest.fixture
def exposition(project: Path, row: dict[str, Any]) -> str:
    """The metrics of a server that has seen traffic, and whose predictions the monitor has."""
    name, now = next(iter(load_schema().features)), datetime.now(UTC)
    times = dict.fromkeys(("start", "end", "made"), now)
    summary = {
        **{key: time.isoformat() for key, time in times.items()},
        "rows": 1,
        "verdicts": ["drift"],
        "drift": {"share": 1, "columns": {name: {"score": 2, "threshold": 1}}},
        "performance": {"coverage": 1, "metrics": {"x": dict.fromkeys(BOUNDS, 0.5)}},
    }
    found = {"model": load_settings().mlflow_experiment_name, "name": "x", "summary": summary}
    with open_log("sqlite:///predictions.db").begin() as connection:
        connection.execute(sa.insert(WINDOWS), found | times)
    with TestClient(create_app(), "http://127.0.0.1") as client:
        for rows, code in (([row], 200), ([{}], 422)):
            assert client.post("/v1/predict", json={"rows": rows}).status_code == code
        until(lambda: value(client.get("/metrics").text, "model_ready") == 1)
        return client.get("/metrics").text


def test_every_metric_and_label_that_is_asked_for_exists(exposition) -> None:
    there = set(re.findall(r"^([a-z_:]\w*)[ {]", exposition, re.MULTILINE))
    # No model of numbers has classes.
    absent = set() if load_schema().classes else {"predicted_labels_total"}
    needed = set().union(*map(named, expressions()))
    assert len(needed) > 20
    assert needed - absent <= there
    for expression in expressions():
        for name, inside in re.findall(r"(\w+)\{([^}]*)\}", expression):
            samples = [line for line in exposition.splitlines() if line.startswith(name + "{")]
            for label in re.findall(r"(\w+)\s*[!=]~?\s*\"", inside):
                known = name in UNTYPED | absent
                assert known or any(f'{label}="' in line for line in samples), (name, label)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) == 14
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor == rule["alert"].lower()
        sections = re.split(r"^## ", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
        (section,) = [one for one in sections if one.startswith(rule["alert"] + "\n")]
        assert f"*{rule['labels']['severity']}.*" in section
        assert "see [" in section or ("- Look: " in section and "- Do: " in section)


def test_the_runbook_leads_nowhere_else_than_to_itself() -> None:
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[14:] == [*VERDICTS, "retrain refused"]
    assert set(titles[:14]) == {rule["alert"] for rule in rules()}
    anchors = {title.lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    for path in re.findall(r"`((?:deploy|\.github)/[\w./-]+)`", text):
        assert (ROOT / path).exists()


def test_the_routes_know_every_severity_and_name_no_other_alert() -> None:
    text = (OBSERVE / "alertmanager.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    routes = [config["route"], *config["route"]["routes"]]
    assert {one["name"] for one in config["receivers"]} == {one["receiver"] for one in routes}
    matched = "|".join(re.findall(r'alertname [!=]?[~=] "([^"]*)"', text))
    assert set(matched.split("|")) <= {rule["alert"] for rule in rules()}


def test_the_dashboards_can_be_told_apart_and_have_a_choice_of_source() -> None:
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert [path.stem for path in DASHBOARDS] == ["data", "model", "service"]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 3
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        assert [one["name"] for one in board["templating"]["list"]] == ["datasource"]
        for panel in board["panels"]:
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
