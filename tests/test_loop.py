"""The closed loop: the year of the example, in a real server, as its user would see it."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import LEAKS, Bake, Project
from test_docs import README, same, steps

# The year takes long: only one of several workers runs it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("year")]

HEAD = ["month", "rows", "drift", "roc_auc", "frozen", "alarms", "decision"]


class Year(NamedTuple):
    project: Project
    said: str
    months: dict[str, dict[str, str]]


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


@pytest.fixture(scope="module")
def year(bake: Bake) -> Year:
    project = bake(lock=True)
    done = project.uv(project.slug, "demo", timeout=3000, env={"COLUMNS": "200"})
    print(done.stdout)
    months = {row[0]: dict(zip(HEAD, row, strict=True)) for row in cells(done.stdout, "The year")}
    return Year(project, done.stdout, months)


def test_it_is_the_whole_year(year: Year) -> None:
    assert list(year.months) == [f"2013-{month:02}" for month in range(4, 13)]
    rows = [int(month["rows"].replace(",", "")) for month in year.months.values()]
    assert sum(rows) == 249_435  # the flights that arrived from April to December


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


def test_calibration_decays_before_ranking_does(year: Year) -> None:
    path = year.project.path / "build/demo/reports/monitor"
    found = json.loads((path / "2013-09-01--2013-10-01/summary.json").read_text("utf-8"))
    rules = [alarm["rule"] for alarm in found["alarms"] if alarm["verdict"] == "decay"]
    assert rules == ["decay: calibration"]


def test_every_incident_is_caught_in_its_first_window_and_only_there(year: Year) -> None:
    rows = year.said.partition("Incidents, in their first window")[2].partition("└")[0]
    assert "NOT CAUGHT" not in rows
    assert "fired as well" not in rows
    for what in ("no temperature", "kilometres", "a new carrier", "LaGuardia", "UTC"):
        assert what in rows
    assert rows.count("│ silent") == 5


def test_the_gates_refuse_a_naive_window_in_october_and_december(year: Year) -> None:
    page = (year.project.path / "reports/demo.html").read_text("utf-8")
    section = page.partition("A naive sliding window")[2].partition("<h2>")[0]
    rows = re.findall(r"<tr><td>(2013-\d\d)</td>(.*?)</tr>", section)
    assert [month for month, _ in rows] == ["2013-10", "2013-12"]
    for _, row in rows:
        naive, champion = map(float, re.findall(r'class="number">([\d.]+)<', row)[:2])
        assert naive < champion
        assert "<td>refused</td>" in row
        assert "gain in roc_auc" in row


def test_no_request_is_dropped_while_models_change(year: Year) -> None:
    rows = year.said.partition("Incidents, in their first window")[2].partition("└")[0]
    wrong = re.findall(r"(\d+) not\s", " ".join(rows.replace("│", " ").split()))
    assert len(wrong) >= 5
    assert set(wrong) == {"0"}


def test_the_pages_open_offline_and_are_small(year: Year) -> None:
    page = year.project.path / "reports/demo.html"
    text = page.read_text("utf-8")
    assert text.count("<svg") == 4
    assert not re.findall(r'(?:src|href)="http', text)
    for link in re.findall(r'href="([^"#]+)"', text):
        assert (page.parent / link).exists(), link
    for folder in ("reports/monitor", "incidents/reports/monitor"):
        files = (year.project.path / "build/demo" / folder).rglob("*")
        assert sum(path.stat().st_size for path in files if path.is_file()) < 15e6


def test_the_project_itself_is_left_alone(year: Year) -> None:
    project = year.project
    assert project.run("git", "status", "--porcelain", "params.yaml", "src").stdout == ""
    lines = project.uv(project.slug, "audit", "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["promoted"]
    assert "up to date" in project.uv("dvc", "status").stdout


def test_what_the_readme_quotes(year: Year) -> None:
    for step in steps(README.read_text("utf-8")):
        if step.command == f"uv run {year.project.slug} demo":
            printed = year.said.splitlines()
            assert step.quoted
            for quoted in step.quoted:
                assert quoted == "..." or any(same(quoted, line) for line in printed), quoted
            return
    pytest.fail("the README does not quote the demo")


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_stopped_it_stops_its_server_and_begins_anew(year: Year, stop: int) -> None:
    project, place = year.project, year.project.path / ".venv/bin"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    env = clean | {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [str(place / project.slug), "demo", "--fast"]
    log = project.path / "build/demo/server.log"
    before = log.stat().st_ino
    with subprocess.Popen(command, cwd=project.path, env=env, **quiet) as demo:
        while not log.exists() or log.stat().st_ino == before or "/v1/predict" not in text(log):
            assert demo.poll() is None
            time.sleep(0.2)
        demo.send_signal(stop)
        assert demo.wait(60) != 0
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert [line for line in running.splitlines() if str(project.path) in line] == []
    assert "Application shutdown complete" in text(log)
    assert project.run("git", "status", "--porcelain", "params.yaml", "src").stdout == ""


def text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")
