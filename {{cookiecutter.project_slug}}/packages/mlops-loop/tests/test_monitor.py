"""The monitor: each alarm is red on what it is for, and silent where nothing is wrong."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import Params, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.monitoring import drift, monitor, pages
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.evidently_report import evidently_report
from mlops_loop.monitoring.monitoring_window import (
    MonitoringWindow,
    contract_check,
    logged_features,
    read_window,
)
from mlops_loop.monitoring.window_store import stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS, REFUSALS
from mlops_loop.prediction_log.window_summary import WindowSummary, read_newest
from mlops_loop.release.smoke_test.run import as_json
from mlops_loop.scoring.bundle import REFERENCE, open_bundle
from mlops_loop.training import export

from .conftest import ROOT, change
from .databases import postgres
from .traffic import END, come_true, engine, log_rows, promised, wrong

ROWS, FEW = 1500, 600
FOLDER = Path("reports/monitor")


@pytest.fixture
def learned(project: Path) -> pd.DataFrame:
    """Rows that the model learned from, each as often as any other: nothing is wrong with them."""
    rows = tables.read_table(files.TRAIN).sample(frac=1, random_state=1)
    return rows.take(np.resize(np.arange(len(rows)), ROWS))


def look() -> WindowSummary:
    """What is found in the week before END, without its pages."""
    bundle, params = open_bundle(Path(load_settings().bundle)), load_params()
    start, most = END - timedelta(days=7), params.monitor.max_rows
    window = read_window(engine(), start, END, bundle.version, bundle.schema, most)
    return monitor.evaluate(Evaluation(window, bundle, params), "model")


def rules(found: WindowSummary, verdict: str = "") -> set[str]:
    """The rules that fired, without the prediction's: on rows that it knows, a model is surer."""
    prediction = f"drift: {load_schema().prediction}"
    return {alarm.rule for alarm in found.alarms if alarm.rule.startswith(verdict)} - {prediction}


def refuse(kind: str, place: str, requests: int) -> None:
    row = {"id": uuid4().hex, "time": END - timedelta(days=1), "kind": kind, "place": place}
    with engine().begin() as connection:
        connection.execute(REFUSALS.insert(), [row | {"requests": requests}])


def rewrite(condition: sa.ColumnElement[bool], **values: object) -> None:
    """Change what the log holds of some predictions."""
    with engine().begin() as connection:
        connection.execute(sa.update(PREDICTIONS).where(condition).values(values))


def test_where_a_shared_registry_is_away_the_bundle_at_hand_is_judged(
    project, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    found = monitor.newest_champion(load_settings())
    assert found.sha256 == open_bundle(files.BUNDLE).sha256
    said = capsys.readouterr().err
    assert "is taken for the newest" in said
    assert "secret" not in said
    monkeypatch.setenv("BUNDLE", "nowhere")
    with pytest.raises(Failure):
        monitor.newest_champion(load_settings())


def test_it_imports_no_library_that_trains_or_promotes() -> None:
    code = "import sys, mlops_loop.monitoring.monitor, mlops_loop.monitoring.compare"
    code += "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "pandas" in loaded
    assert not {"dvc", "evidently", "fairlearn", "mlflow", "skl2onnx", "skops"} & loaded


def test_a_window_that_has_not_passed_is_refused(project) -> None:
    with pytest.raises(Failure, match="is in the future"):
        monitor.monitor(7, END.replace(year=2999))


# What it says of nothing


def test_nothing_is_wrong(learned) -> None:
    logged = log_rows(learned)
    come_true(logged, promised(logged))
    found = look()
    assert rules(found) == set()
    assert found.drift.share <= 1 / len(found.drift.columns)
    assert (found.rows, found.sampled, found.requests) == (ROWS, ROWS, ROWS / 50)
    assert set(found.not_judged) == {"quality.volume"}
    name = next(iter(tasks.of(load_schema()).GATE_METRICS))
    measured = found.performance.metrics[name]
    assert measured.low <= measured.value <= measured.high
    assert found.performance.coverage == 1
    assert found.performance.delay_days.median == pytest.approx(2)


def test_features_that_the_log_does_not_hold_are_named(learned) -> None:
    schema = load_schema()
    derived = [name for name in schema.features if schema.columns[name].derived]
    hidden = next(name for name in schema.inputs if not derived or name not in schema.features)
    change(files.SCHEMA, "columns", hidden, pii=True)
    export.main()
    log_rows(learned)
    found = look()
    for name in derived or [hidden]:
        assert name in found.not_judged["pii"]
        assert name not in found.drift.columns


def test_a_window_in_which_no_rule_looked_is_not_green(learned, capsys) -> None:
    log_rows(learned.head(20))
    refuse("contract", "", 3)
    with pytest.raises(Refusal, match="not judged: no rule had enough to look at"):
        monitor.main(7, END)
    few = "20 predictions are too few: monitor.min_rows asks for 500"
    said = capsys.readouterr().out
    assert f"not judged, drift: {few}" in said
    assert "too few for an alarm" in said
    found = read_document(monitor.LATEST)
    assert (found.state, found.drift) == ("not judged", None)
    for page in (FOLDER / "index.html", Path(found.report)):
        text = page.read_text(encoding="utf-8")
        assert '<span class="badge not-judged">not judged</span>' in text
        assert "nothing to report" not in said + text


def read_document(path: Path) -> WindowSummary:
    return WindowSummary.model_validate(files.read_json(path))


# Drift


@pytest.mark.parametrize("days", [1, 7, 30])
def test_false_alarms_are_rare(project, days) -> None:
    """On fresh stretches of the reference; the share is printed."""
    schema, params = load_schema(), read_yaml(ROOT / files.PARAMS, Params).monitor
    reference = tables.read_table(files.BUNDLE / REFERENCE)
    columns = {
        name: drift.encode(reference[name], name in schema.numeric)
        for name in logged_features(schema)
    }
    when = reference[schema.timestamp] if schema.timestamp else None
    quiet = drift.null_distribution(columns, when, ROWS, days, params.resamples)
    least = pd.Series(0.0, index=quiet.columns)
    limits = drift.thresholds(quiet, least, params.false_alarms)
    fresh = drift.null_distribution(columns, when, ROWS, days, 500, seed=1)
    share = (fresh > limits).any(axis="columns").mean()
    print(f"false alarms in windows of {days} days: {share:.1%}")
    assert share <= 0.05


def test_evidently_measures_what_the_thresholds_are_of(learned) -> None:
    schema = load_schema()
    tables = [
        rows.assign(**{schema.prediction: 0.5})
        for rows in (learned.tail(ROWS // 3), learned.head(ROWS // 3))
    ]
    numeric = drift.numeric_columns(schema)
    judged = drift.compare(*tables, schema, dict.fromkeys(numeric, 0.1))
    known = {name: column for name, column in judged.items() if column.score is not None}
    snapshot = evidently_report(*tables, schema, judged).dict()
    tests = {test["metric_config"]["params"].get("column"): test for test in snapshot["tests"]}
    measured = snapshot["metrics"][1:]  # the first counts the drifted columns
    assert {metric["config"]["column"] for metric in measured} == known.keys()
    for metric in measured:
        ours = judged[metric["config"]["column"]]
        assert ours.method == metric["config"]["method"]
        assert ours.score == pytest.approx(float(metric["value"]), abs=1e-9)
        failed = str(tests[metric["config"]["column"]]["status"]).endswith("FAIL")
        assert ours.drifted == failed


def test_drift_is_seen(learned) -> None:
    logged = log_rows(pd.concat([learned.head(1)] * ROWS))
    come_true(logged, promised(logged))
    found = look()
    assert "drift" in found.verdicts
    drifted = {name for name, column in found.drift.columns.items() if column.drifted}
    fired = {alarm.rule for alarm in found.alarms if alarm.verdict == "drift"}
    assert fired == {f"drift: {name}" for name in drifted}
    change(files.PARAMS, "monitor", drift_columns=len(drifted) + 1)
    found = monitor.monitor(7, END)  # equal predictions have a page, too
    assert "drift" not in found.verdicts
    assert found.performance.calibration == []


# Data quality


def test_missing_values_are_seen(learned) -> None:
    names = [name for name, column in load_schema().features.items() if column.nullable]
    if not names:
        pytest.skip("nothing may be missing in this contract")
    log_rows(learned.assign(**{names[0]: None}))
    found = look()
    assert f"quality: nulls in {names[0]}" in rules(found) or learned[names[0]].isna().mean() > 0.98
    assert found.quality.nulls[names[0]].share == 1


def test_refused_requests_are_seen(learned) -> None:
    log_rows(learned)
    name = next(iter(load_schema().features))
    refuse("contract", name, 9)  # however large their share: these may be anybody's typing errors
    assert rules(look(), "quality") == set()
    refuse("contract", name, 3)
    refuse("malformed", "", 1)
    found = look()
    assert rules(found, "quality") == {"quality: refused requests"}
    assert found.quality.refused.places == {name: 12, "malformed": 1}


@pytest.mark.parametrize(("share", "red"), [(0.8, False), (0.4, True), (2.5, True), (0, True)])
def test_the_volume_is_compared_with_the_windows_before(learned, capsys, share, red) -> None:
    for weeks in (1, 2, 3):
        log_rows(learned.head(FEW), END - timedelta(weeks=weeks))
    log_rows(learned.head(round(FEW * share)))
    found = look()
    assert ("quality: volume" in rules(found)) == red
    assert found.quality.volume.usual == FEW
    if not share:
        with pytest.raises(Refusal, match="quality: see reports/monitor"):
            monitor.main(7, END)
        assert "quality: 0 rows, usual are 600" in capsys.readouterr().out


# Performance


def test_decay_is_seen(learned) -> None:
    logged = log_rows(learned)
    come_true(logged, wrong(logged))
    found = look()
    names = tasks.of(load_schema()).GATE_METRICS
    assert "decay" in found.verdicts
    assert {f"decay: {name}" for name in names} <= rules(found, "decay")


def test_labels_that_are_late_missing_repeated_contradictory_or_unknown(learned) -> None:
    logged = log_rows(learned)
    truth = promised(logged)
    early = logged.head(900)
    come_true(early, truth[:900])
    found = look()
    assert found.performance.labelled == 900
    assert found.performance.coverage == pytest.approx(0.6)
    assert "900 outcomes of version" in found.not_judged["decay"]
    assert found.performance.metrics is None
    assert come_true(early, truth[:900]).repeated == 900
    stranger = pd.DataFrame({"id": [uuid4().hex]})
    assert come_true(stranger, truth[:1]).unknown == [0]
    assert look().performance.labelled == 900
    come_true(logged, truth)
    first = look().performance
    assert come_true(early, wrong(early)).corrected > 0  # the later value counts
    second = look().performance
    assert first.labelled == second.labelled == ROWS
    assert second.metrics != first.metrics


def test_answers_to_another_question_are_left_out_and_told(learned) -> None:
    """As when the contract was changed within the window: other features, other answers."""
    logged = log_rows(learned)
    old = log_rows(learned.head(FEW), version="of another contract")
    come_true(old, wrong(old))
    rewrite(PREDICTIONS.c.model_version == "of another contract", features={"no feature": 1})
    answer = {"value": 1} if load_schema().classes else {"probabilities": {}}
    rewrite(PREDICTIONS.c.id.in_(logged["id"].iloc[:500].tolist()), output=answer)
    come_true(logged, promised(logged))
    found = look()
    others = "1,100 of 2,100 are to the question of another contract"
    assert found.not_judged["other_contract"] == others
    assert "1,000 outcomes" in found.not_judged.get("decay", "1,000 outcomes")
    assert (found.rows, found.requests, found.sampled) == (ROWS, ROWS / 50, 1000)
    assert found.versions["of another contract"] == FEW
    assert found.performance.labelled == ROWS
    assert found.quality.volume.rows == ROWS + FEW  # traffic is traffic
    assert rules(found, "decay") == rules(found, "quality") == set()


def test_another_version_s_answers_are_traffic_but_not_the_champion_s_performance(learned) -> None:
    logged = log_rows(learned, version="before")
    come_true(logged, wrong(logged))
    found = look()
    assert found.versions == {"before": ROWS}
    assert rules(found, "decay") == set()
    assert "0 outcomes" in found.not_judged["decay"]


def test_what_fits_a_contract(learned) -> None:
    schema, output = load_schema(), log_rows(learned.head(1))["output"][0]
    row = as_json(learned.head(1), schema)[0]
    name = next(name for name in schema.features if row[name] is not None)
    fits = contract_check(schema)
    assert fits(row, output)
    assert not fits(row | {name: 1 if isinstance(row[name], str) else "text"}, output)
    without = {key: value for key, value in row.items() if key != name}
    assert fits(without, output) == schema.columns[name].nullable
    assert not fits({"no feature": 1}, output)


def test_outcomes_that_do_not_tell_a_metric_leave_its_alert_open(learned) -> None:
    schema = load_schema()
    if not schema.classes:
        pytest.skip("of a regression every outcome tells something")
    logged = log_rows(learned)
    come_true(logged, [schema.classes[0]] * ROWS)
    found, names = look(), tasks.of(schema).GATE_METRICS
    unknown = {name for name in names if found.metric(name).drop is None}
    assert {f"decay.{name}" for name in unknown} <= found.not_judged.keys()
    assert unknown & {"roc_auc", "macro_roc_auc"}
    assert not {f"decay: {name}" for name in unknown} & rules(found)
    with pytest.raises(Refusal):  # and it can be told and shown
        monitor.main(7, END)


# What is read and written


def read(url: str, most: int = 100) -> MonitoringWindow:
    start = END - timedelta(days=7)
    return read_window(open_log(url), start, END, "unpromoted", load_schema(), most)


def test_a_sample_is_read_that_is_the_same_each_time_and_all_rows_on_each_database(
    learned, monkeypatch
) -> None:
    logged = log_rows(learned)
    come_true(logged, promised(logged))
    url = "sqlite:///predictions.db"
    first = read(url)
    assert (first.rows, len(first.answered), first.known) == (ROWS, 100, ROWS)
    assert first.answered["time"].is_monotonic_increasing
    assert first.features.equals(read(url).features)
    assert len(read(url, 10_000).answered) == ROWS
    with postgres() as server:
        with sa.create_engine(server.url).begin() as connection:  # whatever zone the server is in
            connection.execute(sa.text("ALTER ROLE CURRENT_USER SET timezone = 'America/Havana'"))
        monkeypatch.setenv("PREDICTION_LOG_URL", server.url)
        database = engine()
        with open_log(url).connect() as old, database.begin() as new:
            for table in (PREDICTIONS, OUTCOMES):
                rows = [dict(row) for row in old.execute(table.select()).mappings()]
                new.execute(table.insert(), rows)
        there = read(server.url)
        for name in ("rows", "requests", "versions", "known"):
            assert getattr(there, name) == getattr(first, name)
        assert len(there.answered) == 100
        assert there.features.equals(read(server.url).features)
        all_rows = [read(one, 10_000) for one in (url, server.url)]
        assert all_rows[0].features.equals(all_rows[1].features)
        times = [pd.to_datetime(one.answered["time"], utc=True) for one in all_rows]
        assert times[0].equals(times[1])
        assert monitor.monitor(7, END).rows == ROWS
        stored = read_newest(database, load_settings().mlflow_experiment_name)
        assert stored.end == END


def test_the_summaries_and_the_pages_of_three_windows(learned, monkeypatch) -> None:
    monkeypatch.setattr(pages, "KEPT_REPORTS", 2)
    for weeks in (2, 1, 0):
        logged = log_rows(learned, END - timedelta(weeks=weeks))
        come_true(logged, promised(logged))
        found = monitor.monitor(7, END - timedelta(weeks=weeks), evidently=True)
    document = found.model_dump(mode="json")
    assert files.read_json(FOLDER / found.window / "summary.json") == document
    assert read_document(monitor.LATEST).model_dump(mode="json") == document
    assert stored_summaries(engine(), found.model)[-1].model_dump(mode="json") == document
    for page, charts in ((FOLDER / "index.html", 4), (Path(found.report), 1)):
        text = page.read_text(encoding="utf-8")
        assert text.count("<svg") == charts
        assert 'src="http' not in text
        assert 'href="http' not in text
    index = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r'href="[\d-]+/index.html"', index)) == 3
    kept = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/evidently.html"))
    assert sorted(re.findall(r'href="([\d-]+/evidently.html)"', index)) == kept
    assert len(kept) == 2
