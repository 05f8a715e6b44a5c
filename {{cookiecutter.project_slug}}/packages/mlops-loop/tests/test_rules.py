"""Rules and dashboards: every metric exists, every alert has its section of the runbook."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.window_summary import BOUNDS, VERDICTS
from mlops_loop.serving.app import create_app

from .conftest import ROOT
from .server import until, value
from .test_telemetry import insert_window

OBSERVE = ROOT / "deploy/observe"
DASHBOARDS = sorted((OBSERVE / "grafana/dashboards").glob("*.json"))
pytestmark = pytest.mark.skipif(not OBSERVE.is_dir(), reason="deploy/observe is not there")
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
    summary = {
        "rows": 1,
        "verdicts": ["drift"],
        "drift": {"share": 1, "columns": {"x": {"score": 2, "threshold": 1}}},
        "performance": {"coverage": 1, "metrics": {"x": dict.fromkeys(BOUNDS, 0.5)}},
    }
    insert_window(0, summary)
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
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*)\n(.*(?:\n(?!## ).*)*)", text, re.MULTILINE))
    names = [rule["alert"] for rule in rules()]
    assert list(sections)[14:] == [*VERDICTS, "retrain refused", "Security"]
    assert sorted(names) == sorted(list(sections)[:14])
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        section = sections[rule["alert"]]
        assert f"*{rule['labels']['severity']}.*" in section
        assert "see [" in section or ("- Look: " in section and "- Do: " in section)
    anchors = {title.lower().replace(" ", "-") for title in sections}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    for path in re.findall(r"`((?:deploy|\.github)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path == "deploy/cosign.pub"  # a user's own key


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
