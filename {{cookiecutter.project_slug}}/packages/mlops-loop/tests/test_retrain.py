import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from filelock import FileLock

from mlops_loop.base import files, project
from mlops_loop.base.code_hash import code
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import Budget, load_params
from mlops_loop.base.params import Retrain as Limits
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import load_settings
from mlops_loop.cli import build as release
from mlops_loop.cli import operate as monitoring
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.monitoring.retraining import evidence, retrain, windows
from mlops_loop.monitoring.retraining.decide import Evidence, decide
from mlops_loop.monitoring.retraining.document import FOLDER, STARTED, Record
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.prediction_log.window_summary import Alarm, WindowSummary
from mlops_loop.release import audit
from mlops_loop.release.champion import roll_back
from mlops_loop.release.promote import promote
from mlops_loop.reporting.formats import number
from mlops_loop.scoring.bundle import PromotionFacts, open_bundle
from mlops_loop.tracking.session import experiment_name

from .conftest import ROOT, SERVER, change, run_stages, use_registry

SERVED, SOURCE, DAY = Path("build/champion"), Path("sample.parquet"), timedelta(days=1)
STAGES = "ingest", "validate", "split", "train", "evaluate", "export"
# Gates that other tests are about; `labels` and `champion` stay.
OTHERS = ("server", "latency", "behaviour", "slices", "calibration", "baseline", "leakage")
OFF = dict.fromkeys((*OTHERS, "parity", "fairness"))
NEVER = Mock(side_effect=AssertionError("the pipeline must not run"))
NOW = datetime(2024, 7, 1)
LIMITS = Limits(cooldown_days=20, budget=Budget(runs=2, days=80))
QUIET = Evidence(until=NOW, champion="1", trained_through=NOW - 30 * DAY, rows=20_000)
DECAY = {"decay": ("June: worse",)}
CODE = {"changed": ("model.py",)}
FORCED = {"force_reason": ""}
OLD = {"trained_through": NOW - 90 * DAY}


def retrained(*days: int) -> dict:
    return {"retrained": tuple(NOW - day * DAY for day in days)}


@pytest.mark.parametrize(
    ("found", "expected", "reasons", "against"),
    [
        ({}, False, [], []),
        (DECAY, True, ["decay"], []),
        ({"trained_through": NOW - 89 * DAY}, False, [], []),
        (OLD, True, ["schedule"], []),
        ({"rows": 49_999}, False, [], []),
        ({"rows": 50_000}, True, ["new data"], []),
        (CODE, True, ["code"], []),
        ({"champion": None, "trained_through": None}, True, ["no champion"], []),
        (FORCED, True, ["on demand"], []),
        (
            DECAY | OLD | CODE | FORCED | {"rows": 50_000},
            True,
            ["decay", "schedule", "new data", "code", "on demand"],
            [],
        ),
        (DECAY | retrained(19), False, ["decay"], ["cool-down"]),
        (DECAY | retrained(20), True, ["decay"], []),
        (retrained(19), False, [], ["cool-down"]),
        (DECAY | retrained(79, 30), False, ["decay"], ["budget"]),
        (DECAY | retrained(80, 30), True, ["decay"], []),
        (CODE | retrained(50, 1), False, ["code"], ["cool-down", "budget"]),
        (DECAY | retrained(-1), False, ["decay"], ["order"]),
        (DECAY | {"rows": 0}, False, ["decay"], ["no new data"]),
        # New code needs no new data, nor does a first champion.
        (CODE | {"rows": 0}, True, ["code"], []),
        ({"champion": None, "rows": 0}, True, ["no champion"], []),
        (FORCED | {"rows": 0}, True, ["on demand"], ["no new data"]),
        (DECAY | {"rows": None}, True, ["decay"], []),  # without time nobody knows
        (FORCED | retrained(50, 1), True, ["on demand"], ["cool-down", "budget"]),
    ],
)
def test_the_decision_table(found, expected, reasons, against) -> None:
    decision = decide(QUIET.model_copy(update=found), LIMITS)
    assert decision.retrain is expected
    assert list(decision.rules) == reasons
    assert list(decision.blocked_by) == against


def times(table=None):
    table = tables.read_table(SOURCE) if table is None else table
    return table[load_schema().timestamp]


@pytest.fixture(scope="session")
def first(finished, tmp_path_factory) -> Path:
    """A project whose champion knows the first 60 % of the time, with retraining's windows."""
    folder = tmp_path_factory.mktemp("first") / "project"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if not load_schema().timestamp:
            pytest.skip("windows that move need a timestamp, which schema.yaml lacks")
        use_registry(patch, folder)
        patch.setenv("BUNDLE", str(SERVED))
        begin, end = times().min(), times().max()
        if (days := (end - begin).days) < 20:
            pytest.skip("windows that move need more days than the data have")
        change(
            files.PARAMS,
            "gates",
            **OFF,
            champion={"min_gain": 0.0, "confidence": 0.8, "resamples": 100},
        )
        limits = {
            "validation_days": max(1, days // 20),
            "test_days": days // 5,
            "window_days": None,
        }
        change(files.PARAMS, "retrain", **limits, new_rows=10**9, every_days=10**5)
        files.ACCEPTED.unlink()
        middle = (begin + 0.6 * (end - begin)).to_pydatetime()
        half = windows.next_windows(load_params(), begin.to_pydatetime(), middle)
        windows.write_windows(half)
        run_stages(*STAGES)
        promote()
        (folder / "name").write_text(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return folder


@pytest.fixture
def served(first, tmp_path, monkeypatch) -> Path:
    """A copy of that project; the pipeline runs in this process."""
    folder = Path(shutil.copytree(first, tmp_path / "project"))
    monkeypatch.chdir(folder)
    use_registry(monkeypatch, folder)
    monkeypatch.setenv("BUNDLE", str(SERVED))
    if SERVER.startswith("http"):
        (folder / "predictions.db").unlink()
        promote()
    else:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", (folder / "name").read_text())
    monkeypatch.setattr(retrain, "reproduce", lambda: run_stages(*STAGES))
    files.ACCEPTED.unlink()  # its seasons are those of half the data
    return folder


def the_log() -> audit.AuditLog:
    return audit.AuditLog(load_settings())


def documents() -> list[dict]:
    return [line.document for line in the_log().lines()]


def events() -> list[str]:
    return [line["event"] for line in documents()]


def last_finished() -> Record | None:
    """Return the last retraining that came to an end."""
    return evidence.open_context(the_log()).finished


def summary() -> dict:
    return json.loads(written("summary.json"))


def later() -> datetime:
    """Return the day after the newest row."""
    return windows.midnight(times().max()) + DAY


def written(name="summary.md"):
    return (FOLDER / name).read_text(encoding="utf-8")


def test_nothing_to_do_is_recorded_and_summed_up(served, monkeypatch, capsys) -> None:
    monkeypatch.setattr(retrain, "reproduce", NEVER)
    before = files.PARAMS.read_bytes()
    monitoring.retrain(until=later())
    assert "not retrained: nothing asks for it" in capsys.readouterr().out
    assert events() == ["promoted", "not retrained"]
    line = documents()[-1]
    assert (line["until"], line["reasons"]) == (f"{later():%Y-%m-%d}", [])
    assert line["evidence"]["champion"] == "1"
    assert files.PARAMS.read_bytes() == before
    assert "no retraining was needed" in written()
    first = summary()
    assert (first["result"], first["promoted"]) == ("declined", False)
    # Labels that may still change are not used.
    change(files.PARAMS, "retrain", label_delay_days=2)
    monitoring.retrain(until=later())
    second = summary()["evidence"]
    assert 0 < second["rows"] < first["evidence"]["rows"]
    known = times()[times() < pd.Timestamp(later() - 2 * DAY)]
    assert second["newest"] == known.max().isoformat()
    release.audit()


def test_a_retraining_moves_the_windows_and_promotes(served, monkeypatch, capsys) -> None:
    change(files.PARAMS, "gates", champion=None)
    files.PARAMS.write_text(f"# a comment that stays\n{files.PARAMS.read_text()}")
    table, target = tables.read_table(SOURCE), load_schema().target
    late = times(table) >= pd.Timestamp(later() - 2 * DAY)  # of whose rows no label has come
    table.assign(**{target: table[target].mask(late)}).to_parquet(SOURCE)
    newest = times(table)[~late].max()
    found = retrain.retrain(later() + 0.5 * DAY, True, "a | new month")
    assert found.result == "promoted"
    assert summary()["promoted"] is True
    assert "version 2 is the new champion" in capsys.readouterr().out
    assert events() == ["promoted", "retraining", "promoted"]
    assert open_bundle(SERVED).version == "2"

    params, end = load_params(), windows.midnight(newest) + DAY
    assert files.PARAMS.read_text().startswith("# a comment that stays\n")
    split, days = params.split, params.retrain
    assert params.ingest.end == end
    assert split.validation_end == end - days.test_days * DAY
    assert split.train_end == split.validation_end - days.validation_days * DAY
    started = documents()[1]
    assert started["windows"]["ingest"]["end"] == f"{end:%Y-%m-%d}"
    assert started["reasons"] == ["on demand: a | new month"]
    text, candidate = written(), found.metrics["candidate"]
    name = next(iter(candidate))
    for part in (
        "version 2 is the new champion",
        "- for: on demand: a \\| new month",
        f"- ingest.end: {end:%Y-%m-%d}",
        "| metric | candidate | naive baseline |",
        f"| {name} | {number(candidate[name])} |",
        "| champion | off |",
        "| labels | gain of the champion",
        "rollback --reason",
    ):
        assert part in text
    assert str(served) not in text

    # Once more, there is nothing new: neither data nor, as dvc would find, anything to run.
    monkeypatch.setattr(retrain, "reproduce", dict)
    assert retrain.retrain(later() - 2 * DAY, False, "").result == "declined"
    assert retrain.retrain(later() - 2 * DAY, True, "").result == "nothing new"
    assert events()[3:] == ["not retrained", "retraining", "nothing new"]
    assert last_finished().until == documents()[4]["until"]
    assert load_params() == params
    roll_back(None, "to see")
    assert open_bundle(SERVED).version == "1"
    release.audit()


def turned(labels: pd.Series, how: str) -> np.ndarray:
    """Return labels that are wrong: mixed up, or the opposite of what they were."""
    classes = load_schema().classes
    if how == "mixed":
        return labels.sample(frac=1, random_state=3).to_numpy()
    if classes:
        return labels.map(dict(zip(classes, classes[1:] + classes[:1], strict=True))).to_numpy()
    return np.sort(labels)[::-1][labels.rank(method="first").astype(int) - 1]


@pytest.mark.parametrize(
    ("how", "window", "gate"),
    [
        ("mixed", ["test"], "labels"),  # the newest month
        ("opposite", ["train"], "champion"),  # a month that was learned from; the newest is clean
        ("opposite", ["train", "validation", "test"], "labels"),  # all from some month on
    ],
)
def test_a_poisoned_month_does_not_win(served, how, window, gate) -> None:
    params = load_params()
    known, end = params.split.train_end, later()
    test_from = end - params.retrain.test_days * DAY
    train_until = test_from - params.retrain.validation_days * DAY
    spans = {
        "train": (known, train_until),
        "validation": (train_until, test_from),
        "test": (test_from, end),
    }
    table, target = tables.read_table(SOURCE), load_schema().target
    for begin, until in (spans[name] for name in window):
        inside = (times(table) >= pd.Timestamp(begin)) & (times(table) < pd.Timestamp(until))
        table.loc[inside, target] = turned(table.loc[inside, target], how)
    table.to_parquet(SOURCE)
    with pytest.raises(Refusal, match="version 2 stays a challenger"):
        retrain.retrain(end, True, "")
    found = summary()
    assert gate in [line["gate"] for line in found["gates"] if line["passed"] is False], found[
        "gates"
    ]
    assert events() == ["promoted", "retraining", "refused"]
    assert open_bundle(SERVED).version == "1"
    assert f"| {gate} |" in written()
    assert "| refused |" in written()
    assert "gates.labels: null" in written()


def row_of(begin: datetime, alarms, version="1") -> dict:
    """Return a row of the monitor's table, as `monitor` writes it."""
    name, end = f"{begin:%Y-%m-%d}--{begin + DAY:%Y-%m-%d}", (begin + DAY).replace(tzinfo=UTC)
    found = [Alarm(rule=verdict, verdict=verdict, text=text) for verdict, text in alarms]
    summary = WindowSummary(window=name, end=end, model_version=version, alarms=found)
    times = {"start": begin.replace(tzinfo=UTC), "end": end, "made": datetime.now(UTC)}
    document = summary.model_dump(mode="json")
    return {"model": experiment_name(), "name": name, "summary": document, **times}


def insert_windows(*rows: dict) -> None:
    with open_log(load_settings().prediction_log_url).begin() as connection:
        connection.execute(sa.insert(WINDOWS), rows)


def test_decay_of_the_champion_is_a_reason_and_drift_is_not(served, monkeypatch) -> None:
    day = later()
    insert_windows(
        row_of(day - 5 * DAY, [("drift", "drifted"), ("quality", "nulls")]),
        row_of(day - 4 * DAY, [("decay", "of another model")], version="7"),
        row_of(day, [("decay", "not yet known")]),
    )
    monkeypatch.setattr(retrain, "reproduce", NEVER)
    assert retrain.retrain(day, False, "").result == "declined"
    insert_windows(row_of(day - 2 * DAY, [("decay", "much worse")]))
    before = files.PARAMS.read_bytes()
    monkeypatch.setattr(retrain, "reproduce", Mock(side_effect=Failure("it stopped")))
    with pytest.raises(Failure, match="stopped"):
        retrain.retrain(day, False, "")
    (reason,) = documents()[-2]["reasons"]
    assert reason.startswith("decay: ")
    assert reason.endswith("much worse")
    assert files.PARAMS.read_bytes() == before
    assert events()[-2:] == ["retraining", "retraining failed"]
    # A reason that came to nothing holds on, but whatever happened there is a cool-down.
    found = retrain.retrain(day + DAY, False, "")
    assert found.decision.rules == ("decay", "decay")
    assert found.decision.blocked_by[-1] == "cool-down"
    assert events()[-1] == "not retrained"
    assert "cool-down" in documents()[-1]["reason"]


def test_data_that_is_refused_leaves_everything_as_it_was(served, monkeypatch) -> None:
    monkeypatch.setattr(retrain, "reproduce", reproduce)  # in processes of dvc, as it is in use
    for file in ("dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / file, ".")
    for folder in ("src", "packages"):
        Path(folder).symlink_to(ROOT / folder)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], check=True)
    change(files.SCHEMA, min_rows=10**9)  # which is a reason, too
    files.ACCEPTED.write_text("{}")
    before = files.PARAMS.read_bytes()
    with pytest.raises(Refusal, match="the pipeline stopped"):
        retrain.retrain(later(), False, "")
    (reason,) = documents()[-2]["reasons"]
    assert reason.startswith("code: schema.yaml, ")  # and this folder's new code
    assert events()[-2:] == ["retraining", "retraining failed"]
    assert files.PARAMS.read_bytes() == before
    assert files.ACCEPTED.read_text() == "{}"
    assert not files.LOCK.exists()
    assert "params.yaml is as it was" in written()
    assert open_bundle(SERVED).version == "1"


def test_what_is_interrupted_has_not_been_done(served, monkeypatch) -> None:
    """Whatever ends it: its reasons still hold, and files are put back."""
    before = files.PARAMS.read_bytes()
    files.ACCEPTED.write_text("{}")
    ends = {
        "reproduce": (KeyboardInterrupt(), "it was interrupted"),
        "promote": (ValueError("of no use"), "ValueError: of no use"),
    }
    for name, (error, why) in ends.items():
        with monkeypatch.context() as patch:
            patch.setattr(retrain, "reproduce", dict)
            patch.setattr(retrain, name, Mock(side_effect=error))
            with pytest.raises(type(error)):
                retrain.retrain(later(), True, "why")
        assert (files.PARAMS.read_bytes() == before) == (name == "reproduce")
        assert summary()["result"] == "failed"
        assert documents()[-1]["reason"] == why
    assert events() == ["promoted", *["retraining", "retraining failed"] * 2]
    assert last_finished() is None


def test_what_the_monitor_found_today_counts_today(served, monkeypatch) -> None:
    monkeypatch.setattr(retrain, "reproduce", NEVER)
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(seconds=2)
    insert_windows(row_of(now - DAY, [("decay", "much worse")]))
    with pytest.raises(AssertionError, match="must not run"):
        retrain.retrain(None, False, "")
    assert documents()[1]["reasons"][0].endswith("much worse")


def test_a_history_without_rows_to_learn_from_is_one_line(served, monkeypatch) -> None:
    monkeypatch.setattr(retrain, "reproduce", NEVER)
    with pytest.raises(Failure, match="has no labelled row of before 1900-01-01"):
        retrain.retrain(datetime(1900, 1, 1), True, "")
    change(files.PARAMS, "retrain", validation_days=10_000)
    with pytest.raises(Failure, match="leave nothing to learn from"):
        retrain.retrain(later(), True, "")
    assert events() == ["promoted", "not retrained", "not retrained"]


def test_one_at_a_time_on_this_machine(served, capsys) -> None:
    command = [*project.command(), "retrain", "--force"]
    with FileLock(retrain.LOCK_FILE):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "not retrained: another retraining is running\n"
    assert events() == ["promoted", "not retrained"]


def test_of_two_machines_that_begin_at_the_same_time_one_does(served, monkeypatch, capsys) -> None:
    append = audit.AuditLog.append

    def overtaken(log, event, facts, seen=None):
        if event == STARTED:
            append(log, event, facts)  # the other machine's
        return append(log, event, facts, seen)

    monkeypatch.setattr(audit.AuditLog, "append", overtaken)
    monkeypatch.setattr(retrain, "reproduce", NEVER)
    before = files.PARAMS.read_bytes()
    assert retrain.retrain(later(), True, "").result == "declined"
    assert "another retraining is running" in capsys.readouterr().out
    assert events() == ["promoted", "retraining", "not retrained"]
    assert files.PARAMS.read_bytes() == before
    release.audit()


def test_new_code_is_what_the_model_comes_from(tmp_path, monkeypatch) -> None:
    for folder in ("src", "packages"):
        ignored = shutil.ignore_patterns("__pycache__", "tests")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    before = code()
    paths = {Path(path).name: path for path in before}
    assert {"model.py", "ingest.py", "train.py", "split.py"} <= paths.keys()
    assert not {"export.py", "app.py", "page.py"} & paths.keys()

    def changed_by(name: str, edit) -> tuple[str, ...]:
        path = Path(paths.get(name, name))
        content = path.read_bytes()
        path.write_bytes(edit(content))
        found = evidence.changes(Record(until="2024-07-01", fingerprint=before), None, code())
        path.write_bytes(content)
        return found

    assert changed_by("model.py", lambda text: text + b"changed = 1\n") == ("model.py",)
    assert changed_by("train.py", lambda text: text + b"changed = 1\n") == ("train.py",)
    assert changed_by("model.py", lambda text: b"# a comment\n" + text) == ()
    assert changed_by("model.py", lambda text: text.replace(b"\n", b"\r\n")) == ()
    page = "packages/mlops-loop/src/mlops_loop/reporting/page.py"
    assert changed_by(page, lambda text: text + b"changed = 1\n") == ()
    assert evidence.changes(None, None, before) == ()


def test_without_a_timestamp_the_schedule_counts_from_the_promotion(served) -> None:
    champion = open_bundle(SERVED)
    manifest = champion.manifest.model_copy(update={"params": {"ingest": {"end": None}}})
    timeless = champion.schema.model_copy(update={"timestamp": None})
    found = replace(champion, schema=timeless, manifest=manifest)
    promoted = datetime.fromisoformat(champion.promotion.promoted_at)
    assert evidence.trained_through(None, found) == windows.midnight(promoted)
    assert evidence.trained_through(None, replace(found, promotion=PromotionFacts())) is None


def test_windows_without_dates_only_move_their_ends(served) -> None:
    params, newest = load_params(), times().max()
    end = f"{later():%Y-%m-%d}"
    change(files.PARAMS, "split", train_end=None, validation_end=None)
    start = windows.format_day(params.ingest.start)
    moved = windows.next_windows(load_params(), None, newest)
    assert moved == {"ingest": {"start": start, "end": end}}
    change(files.PARAMS, "retrain", window_days=3)
    moved = windows.next_windows(load_params(), None, newest)
    back = 3 + params.retrain.validation_days + params.retrain.test_days
    assert moved["ingest"] == {"start": f"{later() - back * DAY:%Y-%m-%d}", "end": end}
    windows.write_windows(moved)
    assert load_params().ingest.start == later() - back * DAY
    assert windows.next_windows(load_params(), None, None) == {}


def test_nothing_later_than_asked_for_is_used(served) -> None:
    day = later() - 9 * DAY
    labelled = evidence.labelled_data(load_schema(), load_params(), later(), day)
    assert (labelled["rows"], labelled["oldest"]) == (0, times().min())
    assert labelled["newest"] == times()[times() < pd.Timestamp(day)].max()
    dates = windows.next_windows(load_params(), None, labelled["newest"])
    assert datetime.fromisoformat(dates["ingest"]["end"]) <= day
