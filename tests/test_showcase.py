"""The showcase: the year of the example in a real server, as its user would see it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import LEAKS, TEMPLATE, Bake, Project, copy, execute
from test_docs import README, same, steps

from showcase.documents import Bundle
from showcase.evaluation import Evaluation
from showcase.fault_injection import shift_to_utc
from showcase.report import links
from showcase.windows import windows_before

# The year takes long: only one of several workers runs it.
pytestmark = pytest.mark.xdist_group("year")

HEAD = ["month", "rows", "drift", "roc_auc", "frozen", "alarms", "decision"]
COMMAND = [sys.executable, "-m", "showcase"]
FOLDER = "build/showcase"


class Year(NamedTuple):
    project: Project
    said: str
    months: dict[str, dict[str, str]]

    @property
    def incidents(self) -> str:
        return self.said.partition("Incidents, in their first window")[2].partition("└")[0]

    @property
    def page(self) -> Path:
        return self.project.path / "reports/showcase.html"


def cells(said: str, title: str) -> list[list[str]]:
    """Return the rows of a table that rich has drawn; a cell of several lines is one."""
    body = said.partition(title)[2].partition("└")[0]
    rows: list[list[str]] = []
    for line in body.splitlines():
        if line.startswith("│"):
            found = [cell.strip() for cell in line.strip("│").split("│")]
            if found[0] and (not rows or re.match(r"\d{4}-\d\d", found[0])):
                rows.append(found)
            else:
                rows[-1] = [
                    f"{old} {new}".strip() for old, new in zip(rows[-1], found, strict=True)
                ]
    return rows


def run(project: Project, *options: str) -> Year:
    env = {"COLUMNS": "200"}
    command = [*COMMAND, str(project.path), *options]
    done = execute(*command, cwd=TEMPLATE, timeout=3000, env=env)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    months = {row[0]: dict(zip(HEAD, row, strict=True)) for row in cells(done.stdout, "The year")}
    return Year(project, done.stdout, months)


@pytest.fixture(scope="module")
def fast(pipeline: Project) -> Year:
    """Return two months of the year; the project itself is left alone, as a test below holds."""
    return run(pipeline, "--fast")


@pytest.fixture(scope="module")
def year(installed: Project, tmp_path_factory: pytest.TempPathFactory) -> Year:
    """Return the whole year, in a project in which nothing was run before."""
    return run(copy(installed, tmp_path_factory.mktemp("year")))


@pytest.mark.slow
@pytest.mark.rare
def test_two_months_show_what_the_year_does(fast: Year) -> None:
    assert list(fast.months) == ["2013-05", "2013-06"]
    assert "NOT CAUGHT" not in fast.incidents
    assert fast.incidents.count("│ silent") == 2
    assert "no temperature" in fast.incidents
    assert "a new carrier" in fast.incidents
    assert fast.months["2013-06"]["decision"] == "the last month"


@pytest.mark.slow
@pytest.mark.rare
def test_progress_is_printed_where_the_output_is_no_terminal(fast: Year) -> None:
    lines = [line for line in fast.said.splitlines() if line.startswith("year: ")]
    assert "training the first model" in lines[1]
    assert any(line.startswith("year: 2013-06, monitoring it") for line in lines)


@pytest.mark.slow
@pytest.mark.rare
def test_the_project_itself_is_left_alone(fast: Year) -> None:
    project = fast.project
    assert project.run("git", "status", "--porcelain", "params.yaml", "src").stdout == ""
    lines = project.uv(project.slug, "audit", "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["promoted"]
    assert "up to date" in project.uv("dvc", "status").stdout


@pytest.mark.slow
@pytest.mark.rare
def test_no_request_is_dropped_while_models_change(fast: Year) -> None:
    check_requests(fast, at_least=1)


@pytest.mark.slow
@pytest.mark.rare
def test_the_page_opens_offline(fast: Year) -> None:
    check_page(fast)


def test_a_window_ends_with_what_is_known(rendered: Project) -> None:
    assert windows_before(rendered.path, 4) == {
        "ingest": {"start": "2013-01-01", "end": "2013-03-31"},
        "split": {"train_end": "2013-02-28", "validation_end": "2013-03-07"},
    }
    assert windows_before(rendered.path, 13, 92)["ingest"]["start"] == "2013-08-30"


def test_utc_shifts_the_departure_and_what_is_made_of_it() -> None:
    table = pd.DataFrame({"scheduled_departure": [pd.Timestamp("2013-06-01 22:15")]})
    assert shift_to_utc(table)["scheduled_departure"][0] == pd.Timestamp("2013-06-02 02:15")
    found = shift_to_utc(table.assign(departure_minute=22 * 60 + 15, departure_hour=22))
    assert (found["departure_minute"][0], found["departure_hour"][0]) == (135, 2)


def test_each_task_is_measured_by_the_metric_of_its_gates() -> None:
    late = Bundle(
        task="binary-classification",
        target="a",
        classes=["late", "on_time"],
        positive="late",
        metrics={},
    )
    binary = Evaluation(late, bins=2, coverage=0.9)
    outputs = [{"probabilities": {"on_time": 1 - p, "late": p}} for p in (0.1, 0.9, 0.8, 0.2)]
    truth = binary.truth(pd.Series(["on_time", "late", "on_time", "late"]))
    scores = binary.scores(pd.Series(outputs))
    assert binary.measure(truth, scores) == 0.75
    assert binary.measure(truth, scores, np.array([1, 1, 0, 1])) == 1
    assert binary.calibration_error(truth, scores) == pytest.approx(0.35)
    minutes = Bundle(task="regression", target="a", metrics={})
    regression = Evaluation(minutes, bins=2, coverage=0.9)
    values = [{"value": 1.0, "interval": [0.0, 2.0]}, {"value": 5.0, "interval": [4.0, 6.0]}]
    scores = regression.scores(pd.Series(values))
    truth = regression.truth(pd.Series([2, 8]))
    assert regression.measure(truth, scores) == 2
    assert regression.calibration_error(truth, scores) == pytest.approx(0.4)


def test_only_reports_that_exist_are_linked(tmp_path: Path) -> None:
    assert links(tmp_path, "..") == {}
    (tmp_path / "alerts.jsonl").touch()
    assert list(links(tmp_path, "..").values()) == ["../alerts.jsonl"]


def test_it_imports_nothing_of_the_project_but_how_its_pages_look() -> None:
    pattern = re.compile(r"^\s*(?:from|import) (mlops_loop\S*)", re.MULTILINE)
    folder = TEMPLATE / "showcase"
    found = {name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())}
    assert found == {"mlops_loop.reporting"}


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    done = execute(*COMMAND, tmp_path, cwd=TEMPLATE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "`make showcase` renders one" in done.stderr


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_stopped_it_stops_its_server_and_runs_alone(fast: Year, stop: int) -> None:
    project = fast.project
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [*COMMAND, str(project.path), "--fast"]
    log = project.path / FOLDER / "server.log"
    before = log.stat().st_ino
    with subprocess.Popen(command, cwd=TEMPLATE, env=clean, **quiet) as showcase:
        while not log.exists() or log.stat().st_ino == before or "/v1/predict" not in text(log):
            assert showcase.poll() is None
            time.sleep(0.2)
        second = execute(*command, cwd=TEMPLATE)
        assert second.returncode == 1
        assert "another showcase" in second.stderr
        showcase.send_signal(stop)
        assert showcase.wait(120) != 0
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert [line for line in running.splitlines() if str(project.path) in line] == []
    assert "Application shutdown complete" in text(log)
    assert project.run("git", "status", "--porcelain", "params.yaml", "src").stdout == ""


@pytest.mark.slow
@pytest.mark.rare
def test_it_is_the_whole_year(year: Year) -> None:
    assert list(year.months) == [f"2013-{month:02}" for month in range(4, 13)]
    rows = [int(month["rows"].replace(",", "")) for month in year.months.values()]
    assert sum(rows) == 249_435  # the flights that arrived from April to December


@pytest.mark.slow
@pytest.mark.rare
def test_retraining_is_worth_something_and_the_frozen_model_is_the_control(year: Year) -> None:
    gain = {
        name: float(month["roc_auc"]) - float(month["frozen"])
        for name, month in year.months.items()
    }
    print(gain)
    assert gain["2013-04"] == gain["2013-05"] == gain["2013-06"] == 0  # there is no other model yet
    assert all(gain[name] >= 0.01 for name in ("2013-07", "2013-08", "2013-09", "2013-10"))
    assert max(gain.values()) >= 0.03
    assert min(gain.values()) >= -0.01
    decisions = {name: month["decision"] for name, month in year.months.items()}
    assert any("promoted" in decision for decision in decisions.values())
    assert any("refused" in decision for decision in decisions.values())
    assert any(decision == "not retrained" for decision in decisions.values())


@pytest.mark.slow
@pytest.mark.rare
def test_calibration_decays_before_ranking_does(year: Year) -> None:
    path = year.project.path / FOLDER / "reports/monitor"
    found = json.loads((path / "2013-09-01--2013-10-01/summary.json").read_text("utf-8"))
    rules = [alarm["rule"] for alarm in found["alarms"] if alarm["verdict"] == "decay"]
    assert rules == ["decay: calibration"]


@pytest.mark.slow
@pytest.mark.rare
def test_every_incident_is_caught_in_its_first_window_and_only_there(year: Year) -> None:
    assert "NOT CAUGHT" not in year.incidents
    assert "fired as well" not in year.incidents
    for what in ("no temperature", "kilometres", "a new carrier", "LaGuardia", "UTC"):
        assert what in year.incidents
    assert year.incidents.count("│ silent") == 5


@pytest.mark.slow
@pytest.mark.rare
def test_the_gates_refuse_a_naive_window_in_october_and_december(year: Year) -> None:
    section = year.page.read_text("utf-8").partition("A naive sliding window")[2]
    cells = r"<tr><td[^>]*>(2013-\d\d)</td>(.*?)</tr>"
    rows = re.findall(cells, section.partition("<h2>")[0], re.DOTALL)
    assert [month for month, _ in rows] == ["2013-10", "2013-12"]
    for _, row in rows:
        naive, champion = map(float, re.findall(r'class="number">([\d.]+)<', row)[:2])
        assert naive < champion
        assert ">refused</span>" in row
        assert "gain in roc_auc" in row


@pytest.mark.slow
@pytest.mark.rare
def test_no_request_of_the_year_is_dropped(year: Year) -> None:
    check_requests(year, at_least=5)
    assert "rollback" in year.incidents


@pytest.mark.slow
@pytest.mark.rare
def test_the_year_s_pages_are_small(year: Year) -> None:
    check_page(year)
    for folder in ("reports/monitor", "faults/reports/monitor"):
        files = (year.project.path / FOLDER / folder).rglob("*")
        assert sum(path.stat().st_size for path in files if path.is_file()) < 15e6


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("task", ["multiclass-classification", "regression"])
def test_two_months_of_the_other_tasks(bake: Bake, task: str) -> None:
    found = run(bake(lock=True, task=task), "--fast")
    assert "2013-06" in found.months
    assert "NOT CAUGHT" not in found.incidents
    check_page(found)


@pytest.mark.slow
@pytest.mark.rare
def test_what_the_readme_quotes(year: Year) -> None:
    printed = year.said.splitlines()
    told = steps(README.read_text("utf-8"))
    quoted = [step.quoted for step in told if "showcase" in step.command]
    for line in (line for lines in quoted for line in lines):
        assert line == "..." or any(same(line, other) for other in printed), line


def check_requests(year: Year, at_least: int) -> None:
    """Fail if requests that came while models changed were not answered."""
    failed = re.findall(r"(\d+) not\s", " ".join(year.incidents.replace("│", " ").split()))
    assert len(failed) >= at_least
    assert set(failed) == {"0"}


def check_page(year: Year) -> None:
    """Fail if the page needs a network, or names what is not there."""
    content = year.page.read_text("utf-8")
    assert content.count("<svg") == content.count('<div class="tile') - 1 == 4
    assert not re.findall(r'(?:src|href)="http', content)
    for link in re.findall(r'href="([^"#]+)"', content):
        assert (year.page.parent / link).exists(), link


def text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")
