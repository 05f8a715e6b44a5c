from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
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
from mlops_loop.metrics.bootstrap import days, intervals, resample
from mlops_loop.metrics.fairness import Judged, answered, differences, groups
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.tasks import deciding_metric, of
from mlops_loop.release.candidate import Champion, open_candidate
from mlops_loop.release.gates import advice, champion, leakage, own_gates, quality, run
from mlops_loop.release.gates import files as file_gates
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.predictions import labels

from .conftest import ROOT, change, run_stages

SIDE = "side of the test"  # a made-up column: a row is on side a or b


@pytest.fixture
def candidate(project):
    """The finished bundle as a candidate, without a champion."""
    bundle = open_bundle(files.BUNDLE)
    return open_candidate(bundle, None, tables.read_table(files.TEST), load_params().evaluate)


def with_schema(candidate, schema, **changed):
    return replace(candidate, bundle=replace(candidate.bundle, schema=schema), **changed)


def with_side(candidate, sides=("a", "b"), minimum=1, **facts):
    """Return the candidate with this column as its only slice, and drawn values in it."""
    schema, column = (
        candidate.schema,
        Column(type="category", role="slice", categories=sides, **facts),
    )
    others = {name: other for name, other in schema.columns.items() if name not in schema.slices}
    alone = schema.model_copy(update={"columns": others | {SIDE: column}})
    drawn = np.random.default_rng(1).choice(sides, len(candidate.table))
    params = candidate.params.model_copy(update={"min_slice_rows": minimum})
    table = candidate.table.assign(**{SIDE: drawn})
    return with_schema(candidate, alone, table=table, params=params)


def judged_rows(candidate):
    given = candidate.truth, candidate.scores, candidate.operating_point, candidate.schema
    return Judged(candidate.table, *given, minimum=1)


def turned_round(scores, schema):
    """Return the opposite of what the model says."""
    return (
        (1 - scores) / (len(schema.classes) - 1) if schema.classes else 2 * scores.mean() - scores
    )


def refused(results):
    return [line.gate for line in results if line.passed is False]


def test_the_finished_model_passes(candidate) -> None:
    params = load_params()
    found = run.check(candidate, params.gates)
    assert not refused(found), found
    assert {line.gate.split(":")[0] for line in found} == set(run.GATES)
    change(files.PARAMS, "gates", size=None)
    (off,) = [line for line in run.check(candidate, load_params().gates) if line.gate == "size"]
    assert (off.measure, off.passed) == ("off", None)


def test_weighted_metrics_are_the_metrics_and_weights_count_rows(candidate) -> None:
    truth, scores, point = candidate.truth, candidate.scores, candidate.operating_point
    schema, params = candidate.schema, candidate.params
    task, weights = of(schema), np.random.default_rng(0).poisson(1, len(truth))
    weighted = task.weighted_metrics(truth, scores, point, schema)
    for given in (np.ones(len(truth), dtype=int), weights):
        rows = np.repeat(np.arange(len(truth)), given)
        measured = task.measure(truth[rows], scores[rows], point, schema, params)
        assert weighted(given) == pytest.approx(
            {name: measured[name] for name in weighted(given)}, rel=1e-6
        )


def test_days_are_resampled_as_a_whole_and_rows_where_there_are_none(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    times = pd.date_range("2024-01-01 06:00", periods=500, freq="7h")
    table, untimed = (
        pd.DataFrame({"when": times}),
        load_schema().model_copy(update={"timestamp": None}),
    )
    timed = untimed.model_copy(update={"timestamp": "when"})
    codes = days(table, timed)
    assert (pd.Series(times.date).groupby(codes).nunique() == 1).all()
    assert len(set(codes)) == len(set(times.date))
    for found in (days(table, untimed), days(table.assign(when=times[0]), timed)):
        assert (found == np.arange(500)).all()
    alike = resample(lambda weights: {"apart": np.ptp(weights[codes == 1])}, codes, 50)
    assert (alike["apart"] == 0).all()


def test_intervals_are_around_the_metrics_and_repeat(candidate) -> None:
    given = candidate.table, candidate.truth, candidate.scores, candidate.operating_point
    found = intervals(*given, candidate.schema)
    assert found == intervals(*given, candidate.schema)
    for name, (low, high) in found.items():
        assert low - 1e-6 <= candidate.metrics[name] <= high + 1e-6
    assert any(low < high for low, high in found.values())


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
    given = candidate.operating_point, candidate.schema, candidate.params
    measured = of(candidate.schema).measure(candidate.truth, sure, *given)
    found = quality.baseline(
        replace(candidate, scores=sure, metrics=measured), load_params().gates.baseline
    )
    assert [(line.measure, line.passed) for line in found] == [
        ("roc_auc", True),
        ("log_loss", False),
    ]


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


def test_every_gate_that_refuses_says_what_to_try() -> None:
    for gate in (*run.GATES, "server", "latency"):
        refusal = GateResult(gate, "value", 1, "< 1", passed=False)
        assert advice.advice(refusal)
        assert advice.advice(replace(refusal, gate=f"{gate}: a")) == advice.advice(refusal)
        assert advice.advice(replace(refusal, passed=True)) is None
    twice = [GateResult("slices: a=1", "roc_auc", passed=False)] * 2
    assert len(advice.advices([*twice, GateResult("size", "off")])) == 1
    assert advice.advices([GateResult("mine", "rows", passed=False)]) == []


def test_labels_of_which_the_champion_knows_nothing_are_refused(candidate) -> None:
    schema, limits = candidate.schema, LabelsGate(min_skill=0.2)
    scores, metrics = candidate.scores, of(schema).GATE_METRICS
    given = candidate.operating_point, schema, candidate.params
    before = champion.skill(candidate.table, candidate.truth, scores, *given)

    def judged(scores, before=before):
        now = champion.skill(candidate.table, candidate.truth, scores, *given)
        return champion.label_trust(now, before, metrics, limits)

    assert judged(scores).value == pytest.approx(1)
    assert judged(scores).passed
    assert not judged(turned_round(scores, schema)).passed
    draws = np.random.default_rng(0)  # of a few rows, one shuffle may by chance look like skill
    shuffled = [judged(scores[draws.permutation(len(scores))]).value for _ in range(25)]
    assert np.median(shuffled) < limits.min_skill
    never = judged(scores, champion.Skill(before.constant, before.constant))
    assert never.passed is None
    nan = champion.Skill(dict.fromkeys(metrics, float("nan")), before.constant)
    lost = champion.label_trust(nan, before, metrics, limits)
    assert (lost.value, lost.passed) == (None, False)
    # All outcomes are the same: the best constant is right, its error is 0.
    same = champion.Skill(dict.fromkeys(metrics, 1.0), dict.fromkeys(metrics, 0.0))
    assert champion.label_trust(same, before, metrics, limits).passed is False
    assert champion.label_trust(before, same, metrics, limits).passed is None


def test_only_a_surely_better_candidate_passes_the_champion(candidate) -> None:
    scores, served = candidate.scores, candidate.bundle
    limits = ChampionGate(min_gain=0, confidence=0.95, resamples=200)

    def against(ours, theirs, limits=limits):
        both = replace(candidate, scores=ours, champion=Champion(served, theirs))
        (found,) = champion.champion(both, limits)
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


def test_a_champion_that_cannot_be_compared_is_not_passed(candidate) -> None:
    lost = replace(candidate, champion=Champion(candidate.bundle, None, "its column is gone"))
    (found,) = champion.champion(lost, load_params().gates.champion)
    assert (found.measure, found.passed) == ("its column is gone", False)


def test_a_model_worse_on_one_slice_is_refused(candidate) -> None:
    sided, limits = with_side(candidate), load_params().gates.slices
    assert not refused(quality.slices(sided, limits))
    worse, on_a = sided.scores.copy(), (sided.table[SIDE] == "a").to_numpy()
    worse[on_a] = turned_round(sided.scores, sided.schema)[on_a]
    found = quality.slices(replace(sided, scores=worse), limits)
    assert f"slices: {SIDE}=a" in refused(found)
    assert f"slices: {SIDE}=b" not in refused(found)
    few = with_side(candidate, minimum=len(sided.table) + 1)
    (none,) = quality.slices(replace(few, scores=worse), limits)
    assert none.passed is None


def test_a_slice_is_not_refused_for_noise(candidate) -> None:
    sided = with_side(candidate, sides=tuple("abcdefghij"))
    task, rows = of(sided.schema), len(sided.truth)
    whole = task.slice_quality(sided.truth, sided.scores, sided.schema)(np.ones(rows))
    # Of ten slices that are alike, some are below what all are, but none surely.
    limits = SlicesGate(floor=whole[task.SLICE_METRIC] - 0.02, max_gap=0.02)
    assert not refused(quality.slices(sided, limits))


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
    given = candidate.operating_point, candidate.schema, candidate.params
    kept = []
    for _ in range(10):
        fair = of(candidate.schema).sample_labels(draws, few, *given)
        kept += quality.calibration(replace(candidate, truth=fair, scores=few), limits)
    assert sum(line.value > limits.max_error for line in kept) >= 7
    assert sum(line.passed for line in kept) >= 7


def test_groups_that_fare_differently_are_refused(candidate) -> None:
    limits, rows = load_params().gates.fairness, len(candidate.truth)
    sided = with_side(candidate, protected=True)
    table = pd.concat([sided.table, sided.table]).assign(**{SIDE: np.repeat(["a", "b"], rows)})
    truth, scores = (np.concatenate([part, part]) for part in (sided.truth, sided.scores))
    sided = replace(sided, table=table, truth=truth, scores=scores)
    schema, point = sided.schema, sided.operating_point
    assert schema.protected == [SIDE]
    found = quality.fairness(sided, limits)
    assert found
    assert all(line.passed for line in found)
    unfair, on_a = scores.copy(), (table[SIDE] == "a").to_numpy()
    if schema.classes:  # side a always gets the last class, side b never
        unfair[on_a], unfair[~on_a] = np.eye(scores.shape[1])[-1], np.eye(scores.shape[1])[0]
    else:
        unfair[on_a] += 3 * np.abs(scores[:, 0] - truth).mean()
    found = quality.fairness(replace(sided, scores=unfair), limits)
    assert refused(found) == [f"fairness: {SIDE}"] * len(found)
    table = table.copy()
    table.loc[on_a, SIDE] = None
    judged = Judged(table, truth, unfair, point, schema, 1)
    listed = groups(judged)
    assert set(listed["group"]) == {"missing", "b"}
    assert len(groups(replace(judged, minimum=len(table)))) == 0
    alone = replace(sided, table=table[~on_a], truth=truth[~on_a], scores=scores[~on_a])
    (one,) = quality.fairness(alone, limits)
    assert one.passed is None
    assert list(groups(replace(judged, schema=load_schema()))) == list(listed)


def test_differences_are_those_of_fairlearn(candidate) -> None:
    sided = with_side(candidate, protected=True)
    judged = judged_rows(sided)
    found = differences(judged, SIDE)(np.ones(len(judged.truth)))
    if sided.schema.classes:
        pairs = [(actual, called) for _, actual, called in answered(judged)]
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
    schema, limits = load_schema(), LeakageGate(max_overlap=0.001)
    train, test = tables.read_table(files.TRAIN), tables.read_table(files.TEST)
    limits.max_overlap = max(limits.max_overlap, schema.max_overlap)
    assert not refused(leakage.leakage(candidate, limits))
    copied = test.tail(int(len(test) * limits.max_overlap) + len(test) // 100 + 1)
    tables.write_table(files.TRAIN, pd.concat([train, copied]))
    found = refused(leakage.leakage(candidate, limits))
    assert "leakage: rows" in found
    assert ("leakage: time" in found) == bool(schema.timestamp)
    name = next(iter(schema.features))
    for path, table in ((files.TRAIN, train), (files.TEST, test)):
        tables.write_table(path, table.assign(**{name: table[schema.target]}))
    assert f"leakage: {name}" in refused(leakage.leakage(candidate, limits))


@pytest.mark.parametrize("rows", [40, 240, 5000])
def test_a_feature_that_orders_the_target_is_a_leak_at_any_size(rows) -> None:
    order, draws = pd.Series(range(rows)), np.random.default_rng(0)
    classes = pd.Series(np.where(order < rows / 3, "a", "b"))
    for target in (classes, classes.where(order < rows / 2, "c"), order * 3.0):
        for values in (order, -order, order.where(order % 5 > 0)):
            assert leakage.orders(values, target, features=10)
        assert not leakage.orders(pd.Series(draws.normal(size=rows)), target, features=10)
        nearly = order.where(order != 1, rows)
        assert not leakage.orders(nearly, target, features=10)
    assert not leakage.orders(order, pd.Series(["a"] * rows), features=10)
    # With one positive row, one feature in ten or so has it at an end by chance.
    assert not leakage.orders(order, classes.where(order == 0, "b"), features=10)


def test_a_first_model_that_is_perfect_asks_a_question(candidate) -> None:
    name, more = deciding_metric(candidate.schema)
    assert leakage.perfect_model(candidate) == []
    perfect = replace(candidate, metrics=candidate.metrics | {name: float(more)})
    (found,) = leakage.perfect_model(perfect)
    assert found.passed is None
    assert found.measure.endswith("?")
    assert advice.advices([found])
    served = Champion(candidate.bundle, candidate.scores)
    assert leakage.perfect_model(replace(perfect, champion=served)) == []


def test_a_training_window_that_reaches_into_the_test_is_refused(candidate) -> None:
    schema, limits = load_schema(), LeakageGate(max_overlap=1)
    if not schema.timestamp:
        found = leakage.leakage(candidate, limits)
        assert not any(line.gate == "leakage: time" for line in found)
        return
    train, test = tables.read_table(files.TRAIN), tables.read_table(files.TEST)
    train.loc[train.index[0], schema.timestamp] = test[schema.timestamp].min()
    tables.write_table(files.TRAIN, train)
    assert refused(leakage.leakage(candidate, limits)) == ["leakage: time"]


def test_an_export_that_differs_is_refused(candidate) -> None:
    change(files.PARAMS, "train", "gradient_boosting", max_iter=5)
    run_stages("train")
    limits = load_params().gates.parity
    assert refused(file_gates.parity(candidate, limits)) == ["parity"]


def test_a_larger_bundle_is_refused(candidate) -> None:
    (before,) = file_gates.size(candidate, SizeGate(max_megabytes=1000))
    limits = SizeGate(max_megabytes=before.value + 0.5)
    assert not refused(file_gates.size(candidate, limits))
    (files.BUNDLE / "plots").mkdir(exist_ok=True)
    (files.BUNDLE / "plots/large.png").write_bytes(bytes(1_000_000))
    (after,) = file_gates.size(candidate, limits)
    assert (after.value, after.passed) == (pytest.approx(before.value + 1), False)


def test_an_own_gate_may_refuse_and_says_what_it_should_return(candidate) -> None:
    results = own_gates.checked("mine", compare("", "rows", 3, ">", 5))
    assert [(line.gate, line.limit, line.passed) for line in results] == [("mine", "> 5", False)]
    named = own_gates.checked("mine", [GateResult("a=b", "rows", passed=True)])
    assert named[0].gate == "mine: a=b"
    for wrong in (True, None, [], [3]):
        with pytest.raises(
            Failure, match=r"project\.py: gates: mine returned .*: return a GateRes"
        ):
            own_gates.checked("mine", wrong)
