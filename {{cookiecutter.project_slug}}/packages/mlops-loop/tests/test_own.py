"""Own metrics and gates, as project.py names them: functions of this module stand for a user's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_loop import Candidate, GateResult, Schema, check_limit
from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project, load_all, use
from mlops_loop.base.settings import load_settings
from mlops_loop.cli.app import APP
from mlops_loop.metrics.own_metrics import checked
from mlops_loop.release import audit
from mlops_loop.release.promote import promote
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.tracking.session import experiment_name, session

from .conftest import run_stages
from .tasks import change

OFF = dict.fromkeys(("server", "latency", "behaviour", "slices", "calibration", "baseline"))


def rows_seen(truth, scores, schema: Schema) -> float:
    return len(scores) / 1000


def enough_rows(candidate: Candidate) -> list[GateResult]:
    return [check_limit("thousand rows", candidate.metrics["thousand"], ">=", 1e6)]


def wrong_parameters(candidate, limits, more):
    return None


@pytest.fixture
def plugged(project, monkeypatch):
    """Plug functions of this module into the project, by name."""
    monkeypatch.setenv("BUNDLE", "build/champion")
    before = current_project()

    def plug(metrics=None, gates=None):
        named = [
            {name: f"{__name__}:{target}" for name, target in (given or {}).items()}
            for given in (metrics, gates)
        ]
        use(replace(before, metrics=named[0], gates=named[1]))

    yield plug
    use(before)


def test_an_own_metric_is_in_metrics_card_page_and_mlflow(plugged) -> None:
    plugged(metrics={"thousand": "rows_seen"})
    run_stages("evaluate", "export")
    rows = open_bundle(files.BUNDLE).manifest.metrics["rows"]
    assert open_bundle(files.BUNDLE).manifest.metrics["thousand"] == rows / 1000
    assert "| thousand |" in (files.BUNDLE / "card.md").read_text("utf-8")
    assert "thousand" in (files.REPORTS / "evaluation.html").read_text("utf-8")
    with session(load_settings()) as client:
        experiment = client.get_experiment_by_name(experiment_name())
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.metrics["test.thousand"] == rows / 1000


def test_an_own_gate_refuses_and_is_in_audit_card_and_json(plugged) -> None:
    change(files.PARAMS, "gates", **OFF)
    plugged(metrics={"thousand": "rows_seen"}, gates={"enough": "enough_rows"})
    done = CliRunner().invoke(APP, ["promote", "--json"])
    document = json.loads(done.stdout)
    assert (document["outcome"], document["version"]) == ("refused", "1")
    (gate,) = [gate for gate in document["gates"] if gate["gate"] == "enough"]
    assert (gate["passed"], gate["relation"], gate["number"]) == (False, ">=", 1e6)
    assert str(done.exception).startswith("version 1 stays a challenger: enough: thousand rows")
    (line,) = audit.AuditLog(load_settings()).lines()
    assert gate in line.told["gates"]
    card = Path(load_settings().challenger, "card.md").read_text("utf-8")
    assert "| enough | thousand rows |" in card
    plugged()
    assert promote().outcome == "promoted"


def test_what_is_wrong_with_an_own_function_is_one_line(plugged) -> None:
    plugged(gates={"mine": "wrong_parameters"})
    with pytest.raises(Failure, match=r"gates: mine: .* must take wrong_parameters\(can"):
        load_all("gates")
    for value in (True, "0.5", None, float("nan")):
        with pytest.raises(Failure, match=r"metrics: m returned .*: return a finite number"):
            checked("project.py: metrics: m", value)
    plugged(metrics={"rows": "rows_seen"})
    with pytest.raises(Failure, match=r"project\.py: metrics: rows is a metric of .* already"):
        run_stages("evaluate")
