from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import (
    CalibrationGate,
    ChampionGate,
    LabelsGate,
    LeakageGate,
    SizeGate,
    SlicesGate,
    load_params,
)
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.fairness import differences, groups
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.tasks import deciding_metric, measure, of, weighted
from mlops_loop.release.candidate import Champion, open_candidate
from mlops_loop.release.gates import champion, leakage, quality, run
from mlops_loop.scoring.bundle import HELD_OUT, OperatingPoint, open_bundle
from mlops_loop.scoring.predictions import labels

from .conftest import ROOT, change, run_stages

SIDE = "side of the test"  # a made-up column: a row is on side a or b


@pytest.fixture
def candidate(project):
    """The finished bundle as a candidate, without a champion."""
    bundle = open_bundle(files.BUNDLE)
    return open_candidate(bundle, None, tables.read_table(files.TEST), load_params().evaluate)


def with_side(candidate, sides=("a", "b"), minimum=1, **facts):
    """Return the candidate with this column as its only slice, and drawn values in it."""
    schema = candidate.schema
    column = Column(type="category", role="slice", categories=sides, **facts)
    others = {name: other for name, other in schema.columns.items() if name not in schema.slices}
    alone = schema.model_copy(update={"columns": others | {SIDE: column}})
    drawn = np.random.default_rng(1).choice(sides, len(candidate.table))
    params = candidate.params.model_copy(update={"min_slice_rows": minimum})
    table = candidate.table.assign(**{SIDE: drawn})
    bundle = replace(candidate.bundle, schema=alone)
    return replace(candidate, bundle=bundle, table=table, params=params)


def turned_round(scores, schema):
    """Return the opposite of what the model says."""
    if schema.classes:
        return (1 - scores) / (len(schema.classes) - 1)
    return 2 * scores.mean() - scores


def by_sklearn(rows):
    """Return the metrics that scikit-learn has."""
    truth, scores, schema = rows.truth, rows.scores, rows.schema
    if not schema.classes:
        return {"mae": sklearn.metrics.mean_absolute_error(truth, scores[:, 0])}
    if schema.positive:
        scores = of(schema).predictions(scores, schema)
        area = {"roc_auc": sklearn.metrics.roc_auc_score(truth, scores)}
    else:
        areas = [
            sklearn.metrics.roc_auc_score(truth == code, scores[:, code]) for code in set(truth)
        ]
        area = {"macro_roc_auc": np.mean(areas)}
    return area | {"log_loss": sklearn.metrics.log_loss(truth, scores)}


def refused(results):
    return [line.gate for line in results if line.passed is False]


def test_weighted_metrics_are_the_metrics_and_weights_count_rows(candidate) -> None:
    weights = np.random.default_rng(0).poisson(1, len(candidate.truth))
    resampled = of(candidate.schema).weighted_metrics(candidate.scored)
    for given in (np.ones(len(weights), dtype=int), weights):
        rows = candidate.scored.at(np.repeat(np.arange(len(weights)), given))
        for name, value in by_sklearn(rows).items():
            assert resampled(given)[name] == pytest.approx(value, rel=1e-6)


def test_no_better_than_the_naive_baseline_is_refused(candidate) -> None:
    limits, names = load_params().gates.baseline, of(candidate.schema).BASELINE_METRICS
    found = quality.baseline(replace(candidate, metrics=candidate.baseline), limits)
    assert refused(found) == ["baseline"] * len(names)
    lost = replace(candidate, metrics=dict.fromkeys(names, float("nan")))
    (nan, *_) = quality.baseline(lost, limits)
    assert (nan.value, nan.passed) == (None, False)


def test_a_champion_is_not_worse_than_a_constant_in_log_loss(candidate) -> None:
    """Rows in a good order, with probabilities that are far too sure, are refused."""
    if not candidate.schema.positive:
        assert "log_loss" in of(candidate.schema).GATE_METRICS or not candidate.schema.classes
        return
    place = candidate.schema.classes.index(candidate.schema.positive)
    sure = np.column_stack([candidate.scores[:, place] ** 9] * 2)
    sure[:, 1 - place] = 1 - sure[:, place]
    measured = measure(replace(candidate.scored, scores=sure))
    limits = load_params().gates.baseline
    found = quality.baseline(replace(candidate, scores=sure, metrics=measured), limits)
    judged = [(line.measure, line.passed) for line in found]
    assert judged == [("roc_auc", True), ("log_loss", False)]


def test_the_label_that_clients_get_is_measured(candidate) -> None:
    schema, metrics = candidate.schema, candidate.metrics
    if not schema.classes:
        return
    called = np.array([labels(candidate.scores, schema, candidate.operating_point)]).ravel()
    actual = candidate.table[schema.target].to_numpy()
    judged = [schema.positive] if schema.positive else schema.classes
    recalls = [(called[actual == name] == name).mean() for name in judged]
    name = "recall" if schema.positive else "macro_recall"
    assert metrics[name] == pytest.approx(np.mean(recalls))
    assert {name.replace("recall", other) for other in ("precision", "f1")} <= set(metrics)


def test_a_miscalibrated_model_is_refused(candidate) -> None:
    schema, scores = candidate.schema, candidate.scores
    limits = CalibrationGate(max_error=0.2 / len(schema.classes) if schema.classes else 0.3)
    assert not refused(quality.calibration(candidate, limits))
    if schema.classes:  # the rarest class is promised far too often
        scores = 0.3 * scores + 0.7 * np.eye(scores.shape[1])[scores.mean(axis=0).argmin()]
        wrong = replace(candidate, scores=scores)
    else:
        point = OperatingPoint(half_width=0)
        scores = scores + 0.01 * candidate.operating_point.half_width
        wrong = replace(candidate, scores=scores, operating_point=point)
    assert refused(quality.calibration(wrong, limits)) == ["calibration"]


def test_few_rows_are_not_refused_for_what_chance_alone_gives(candidate) -> None:
    few = candidate.scores[:60]
    draws, limits = np.random.default_rng(0), CalibrationGate(max_error=1e-6)
    kept = []
    for _ in range(10):
        rows = candidate.scored.at(np.arange(60))
        fair = of(candidate.schema).sample_labels(draws, rows)
        kept += quality.calibration(replace(candidate, truth=fair, scores=few), limits)
    assert sum(line.value > limits.max_error for line in kept) >= 7
    assert sum(line.passed for line in kept) >= 7


def test_the_finished_model_passes_and_a_gate_may_be_off(candidate) -> None:
    change(files.PARAMS, "gates", size=None)
    found = run.check(candidate, load_params().gates)
    assert not refused(found), found
    assert {line.gate.split(":")[0] for line in found} == set(run.GATES)
    assert GateResult("size", "off") in found


def test_what_is_refused_says_what_to_try() -> None:
    for gate in run.ADVICE:
        refusals = [GateResult(name, "value", 1, "< 1", passed=False) for name in (gate, gate)]
        (advice,) = run.advices([*refusals, GateResult("size", "off")])
        assert advice.startswith(gate.partition(":")[0])
    assert run.advices([GateResult("mine", "rows", passed=False)]) == []
    assert run.advices([GateResult("slices: a=1", "roc_auc", passed=False)])


def test_days_are_resampled_as_a_whole_and_rows_where_there_are_none(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    times = pd.date_range("2024-01-01 06:00", periods=500, freq="7h")
    table = pd.DataFrame({"when": times})
    timed, untimed = (
        load_schema().model_copy(update={"timestamp": name}) for name in ("when", None)
    )
    codes = days(table, timed)
    assert (pd.Series(times.date).groupby(codes).nunique() == 1).all()
    assert len(set(codes)) == len(set(times.date))
    for found in (days(table, untimed), days(table.assign(when=times[0]), timed)):
        assert (found == np.arange(500)).all()
    alike = resample(lambda weights: {"apart": np.ptp(weights[codes == 1])}, codes, 50)
    assert (alike["apart"] == 0).all()


def test_labels_of_which_the_champion_knows_nothing_are_refused(candidate) -> None:
    limits = LabelsGate(min_skill=0.2)

    def judged(scores):
        served = Champion(candidate.bundle, scores)
        (found,) = champion.labels(replace(candidate, champion=served), limits)
        return found

    scores = candidate.scores
    assert judged(scores).passed
    assert not judged(turned_round(scores, candidate.schema)).passed
    draws = np.random.default_rng(0)  # of a few rows, one shuffle may by chance look like skill
    shuffled = [judged(scores[draws.permutation(len(scores))]).value for _ in range(25)]
    assert np.median(shuffled) < limits.min_skill


def test_labels_are_not_judged_by_a_champion_without_skill(candidate) -> None:
    held_out = tables.read_table(files.BUNDLE / HELD_OUT)
    names = [name for name in held_out if name.startswith("score ")]
    tables.write_table(files.BUNDLE / HELD_OUT, held_out.assign(**dict.fromkeys(names, 0.5)))
    served = Champion(candidate.bundle, candidate.scores)
    (found,) = champion.labels(replace(candidate, champion=served), LabelsGate())
    assert (found.value, found.passed) == (None, None)


def test_only_a_surely_better_candidate_passes_the_champion(candidate) -> None:
    scores = candidate.scores
    limits = ChampionGate(min_gain=0, confidence=0.95, resamples=200)

    def against(ours, theirs, limits=limits, problem=""):
        served = Champion(candidate.bundle, theirs, problem)
        (found,) = champion.champion(replace(candidate, scores=ours, champion=served), limits)
        return found

    shuffled = np.random.default_rng(0).permutation(len(scores))
    few, noisy = shuffled[: len(scores) // 50], scores.copy()
    noisy[few] = scores[np.roll(few, 1)]
    same = against(scores, scores)
    assert (same.value, same.passed) == (0, False)
    assert not against(noisy, scores).passed
    assert not against(scores[shuffled], scores).passed
    better = against(scores, scores[shuffled])
    assert better.passed
    asked = limits.model_copy(update={"min_gain": better.value * 1.01})
    assert not against(scores, scores[shuffled], asked).passed
    lost = against(scores, None, problem="its column is gone")
    assert (lost.measure, lost.passed) == ("its column is gone", False)


def test_a_model_worse_on_one_slice_is_refused_but_not_for_noise(candidate) -> None:
    sided, limits = with_side(candidate), load_params().gates.slices
    assert not refused(quality.slices(sided, limits))
    worse, on_a = sided.scores.copy(), (sided.table[SIDE] == "a").to_numpy()
    worse[on_a] = turned_round(sided.scores, sided.schema)[on_a]
    found = refused(quality.slices(replace(sided, scores=worse), limits))
    assert set(found) == {f"slices: {SIDE}=a"}
    few = with_side(candidate, minimum=len(sided.table) + 1)
    (none,) = quality.slices(replace(few, scores=worse), limits)
    assert none.passed is None
    # Of ten slices that are alike, some are below what all are, but none surely.
    alike, task = with_side(candidate, sides=tuple("abcdefghij")), of(candidate.schema)
    whole = weighted(alike.scored)
    limits = SlicesGate(floor=whole[task.SLICE_METRIC] - 0.02, max_gap=0.02)
    assert not refused(quality.slices(alike, limits))


def test_groups_that_fare_differently_are_refused(candidate) -> None:
    limits, rows = load_params().gates.fairness, len(candidate.truth)
    sided = with_side(candidate, protected=True)
    table = pd.concat([sided.table, sided.table]).assign(**{SIDE: np.repeat(["a", "b"], rows)})
    truth, scores = (np.concatenate([part, part]) for part in (sided.truth, sided.scores))
    sided = replace(sided, table=table, truth=truth, scores=scores)
    found = quality.fairness(sided, limits)
    assert found
    assert all(line.passed for line in found)
    unfair, on_a = scores.copy(), (table[SIDE] == "a").to_numpy()
    if sided.schema.classes:  # side a always gets the last class, side b never
        unfair[on_a], unfair[~on_a] = np.eye(scores.shape[1])[-1], np.eye(scores.shape[1])[0]
    else:
        unfair[on_a] += 3 * np.abs(scores[:, 0] - truth).mean()
    found = quality.fairness(replace(sided, scores=unfair), limits)
    assert refused(found) == [f"fairness: {SIDE}"] * len(found)
    alone = replace(sided, table=table[~on_a], truth=truth[~on_a], scores=scores[~on_a])
    (one,) = quality.fairness(alone, limits)
    assert one.passed is None
    missing, judged = table.replace({SIDE: {"a": None}}), replace(sided, scores=unfair).scored
    assert set(groups(missing, judged)["group"]) == {"missing", "b"}
    most = judged.params.model_copy(update={"min_slice_rows": len(table)})
    assert len(groups(missing, replace(judged, params=most))) == 0


def test_differences_are_those_of_fairlearn(candidate) -> None:
    sided = with_side(candidate, protected=True)
    schema = sided.schema
    found = differences(sided.table, sided.scored, SIDE)(np.ones(len(sided.truth)))
    if schema.classes:
        named = np.array(labels(sided.scores, schema, sided.operating_point))
        actual = sided.table[schema.target].to_numpy()
        judged = [schema.positive] if schema.positive else schema.classes
        pairs = [(actual == name, named == name) for name in judged]
        measures = demographic_parity_difference, equalized_odds_difference
        expected = [
            max(measure(*pair, sensitive_features=sided.table[SIDE]) for pair in pairs)
            for measure in measures
        ]
    else:
        errors = pd.Series(np.abs(sided.truth - sided.scores[:, 0]))
        expected = [np.ptp(errors.groupby(sided.table[SIDE].to_numpy()).mean()) / errors.mean()]
    assert list(found.values()) == pytest.approx(expected)


def test_a_leaky_split_is_refused(candidate) -> None:
    schema = load_schema()
    train = tables.read_table(files.TRAIN)
    test = tables.read_table(files.TEST)
    limits = LeakageGate(max_overlap=max(0.001, schema.max_overlap))
    assert not refused(leakage.leakage(candidate, limits))
    copied = test.tail(int(len(test) * limits.max_overlap) + len(test) // 100 + 1)
    tables.write_table(files.TRAIN, pd.concat([train, copied]))
    found = refused(leakage.leakage(candidate, limits))
    assert found == ["leakage: time"] * bool(schema.timestamp) + ["leakage: rows"]
    if schema.timestamp:
        first = test[schema.timestamp].min()
        reaching = train.copy()
        reaching.loc[reaching.index[0], schema.timestamp] = first
        tables.write_table(files.TRAIN, reaching)
        assert refused(leakage.leakage(candidate, limits)) == ["leakage: time"]
    name = next(iter(schema.features))
    for path, table in ((files.TRAIN, train), (files.TEST, test)):
        tables.write_table(path, table.assign(**{name: table[schema.target]}))
    assert f"leakage: {name}" in refused(leakage.leakage(candidate, limits))


def test_a_first_model_that_is_perfect_asks_a_question(candidate) -> None:
    name, more = deciding_metric(candidate.schema)
    assert leakage.perfect_model(candidate) == []
    perfect = replace(candidate, metrics=candidate.metrics | {name: float(more)})
    asked = leakage.leakage(perfect, LeakageGate(max_overlap=1))[-1]
    assert (asked.gate, asked.passed, asked.measure[-1]) == ("leakage: perfect", None, "?")
    assert run.advices([asked])
    served = Champion(candidate.bundle, candidate.scores)
    assert leakage.perfect_model(replace(perfect, champion=served)) == []


def test_an_export_that_differs_or_a_larger_bundle_is_refused(candidate) -> None:
    change(files.PARAMS, "train", "gradient_boosting", max_iter=5)
    run_stages("train")
    assert refused(quality.parity(candidate, load_params().gates.parity)) == ["parity"]
    (before,) = quality.size(candidate, SizeGate(max_megabytes=1000))
    limits = SizeGate(max_megabytes=before.value + 0.5)
    assert not refused(quality.size(candidate, limits))
    (files.BUNDLE / "large.png").write_bytes(bytes(1_000_000))
    (after,) = quality.size(candidate, limits)
    assert (after.value, after.passed) == (pytest.approx(before.value + 1), False)


def test_an_own_gate_may_refuse_and_says_what_it_should_return() -> None:
    (found,) = run.named("mine", compare("", "rows", 3, ">", 5))
    assert (found.gate, found.limit, found.passed) == ("mine", "> 5", False)
    (about,) = run.named("mine", [GateResult("a=b", "rows", passed=True)])
    assert about.gate == "mine: a=b"
    for wrong in (True, None, [], [3]):
        with pytest.raises(Failure, match=r"project\.py: gates: mine returned .*: return a Gate"):
            run.named("mine", wrong)
