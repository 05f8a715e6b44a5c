import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from mlops_loop.training.model import load

from mlops_loop.base import files
from mlops_loop.base.params import load_params
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics.bootstrap import days, intervals, resample
from mlops_loop.metrics.fairness import answers, differences, groups
from mlops_loop.metrics.tasks import of
from mlops_loop.release import gates
from mlops_loop.release.promote import skill
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

from .conftest import change, run_stages

SIDE = "side of the test"  # a made-up column: a row is on side a or b


@pytest.fixture
def window(project):
    """The test window's rows, truth and scores, and the bundle's manifest."""
    bundle, table = open_bundle(files.BUNDLE), tables.read_table(files.TEST)
    scored = open_scorer(bundle).scores(columns(table, bundle.schema))
    return table, of(bundle.schema).truth(table, bundle.schema), scored, bundle.manifest


def with_side(table, sides=("a", "b"), **facts):
    """Return the contract with this column as its only slice, and the table with drawn values in it."""
    schema, column = load_schema(), Column(type="category", role="slice", categories=sides, **facts)
    others = {name: other for name, other in schema.columns.items() if name not in schema.slices}
    alone = schema.model_copy(update={"columns": others | {SIDE: column}})
    return alone, table.assign(**{SIDE: np.random.default_rng(1).choice(sides, len(table))})


def turned_round(scores, schema):
    """Return the opposite of what the model says."""
    return (
        (1 - scores) / (len(schema.classes) - 1) if schema.classes else 2 * scores.mean() - scores
    )


def refused(verdicts):
    return [line.gate for line in verdicts if line.passed is False]


def test_the_finished_model_passes(window) -> None:
    table, truth, scores, decision = window
    schema, params, task = load_schema(), load_params(), of(load_schema())
    minimum, measured = (
        params.evaluate.min_slice_rows,
        (truth, scores, decision, schema, params.evaluate),
    )
    judges = {
        "baseline": lambda limits: gates.baseline(
            task.measure(*measured), decision["baseline"], task.GATE_METRICS, limits
        ),
        "slices": lambda limits: gates.slices(table, truth, scores, schema, minimum, limits),
        "calibration": lambda limits: gates.calibration(*measured, limits),
        "fairness": lambda limits: gates.fairness(*window, schema, minimum, limits),
        "leakage": lambda limits: gates.leakage(schema, limits),
        "parity": lambda limits: gates.parity(
            load(files.MODEL), open_scorer(open_bundle(files.BUNDLE)), table, schema, limits
        ),
        "size": lambda limits: gates.size(files.BUNDLE, limits),
    }
    found = gates.judge(judges, params.gates)
    assert not refused(found), found
    assert {line.gate.split(":")[0] for line in found} == set(judges)
    change(files.PARAMS, "gates", size=None)
    (off,) = gates.judge({"size": judges["size"]}, load_params().gates)
    assert (off.gate, off.measure, off.passed) == ("size", "off", None)


def test_statistics_are_the_metrics_and_weights_count_rows(window) -> None:
    _, truth, scores, decision = window
    schema, params = load_schema(), load_params().evaluate
    task, weights = of(schema), np.random.default_rng(0).poisson(1, len(truth))
    statistic = task.weighted_metrics(truth, scores, decision, schema)
    for given in (np.ones(len(truth), dtype=int), weights):
        rows = np.repeat(np.arange(len(truth)), given)
        measured = task.measure(truth[rows], scores[rows], decision, schema, params)
        assert statistic(given) == pytest.approx(
            {name: measured[name] for name in statistic(given)}, rel=1e-6
        )


def test_days_are_resampled_as_a_whole_and_rows_where_there_are_none() -> None:
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


def test_intervals_are_around_the_metrics_and_repeat(window) -> None:
    table, truth, scores, decision = window
    schema = load_schema()
    measured = of(schema).measure(truth, scores, decision, schema, load_params().evaluate)
    found = intervals(table, truth, scores, decision, schema)
    assert found == intervals(table, truth, scores, decision, schema)
    assert all(low - 1e-6 <= measured[name] <= high + 1e-6 for name, (low, high) in found.items())
    assert any(low < high for low, high in found.values())


def test_no_better_than_the_naive_baseline_is_refused(window) -> None:
    table, truth, _, decision = window
    schema, params = load_schema(), load_params()
    task, limits = of(schema), params.gates.baseline
    naive = task.baseline(
        tables.read_table(files.TRAIN), table, schema, params.evaluate.baseline_by
    )
    measured = task.measure(truth, naive, decision, schema, params.evaluate)
    found = gates.baseline(measured, decision["baseline"], task.GATE_METRICS, limits)
    assert refused(found) == ["baseline"] * len(task.GATE_METRICS)
    (nan, *_) = gates.baseline(
        dict.fromkeys(task.GATE_METRICS, float("nan")), measured, task.GATE_METRICS, limits
    )
    assert (nan.value, nan.passed) == (None, False)


def test_labels_of_which_the_champion_knows_nothing_are_refused(window) -> None:
    table, truth, scores, manifest = window
    schema, params = load_schema(), load_params().evaluate
    task, limits = of(schema), gates.LabelsGate(min_skill=0.2)
    before = skill(table, truth, scores, manifest, schema, params)

    def judged(scores, before=before):
        now = skill(table, truth, scores, manifest, schema, params)
        (found,) = gates.labels(now, before, task.GATE_METRICS, limits)
        return found

    assert judged(scores).value == pytest.approx(1)
    assert judged(scores).passed
    assert not judged(turned_round(scores, schema)).passed
    draws = np.random.default_rng(0)  # of a few rows, one shuffle may by chance look like skill
    shuffled = [judged(scores[draws.permutation(len(scores))]).value for _ in range(25)]
    assert np.median(shuffled) < limits.min_skill
    never = judged(scores, (before[1], before[1]))
    assert never.passed is None
    nan = dict.fromkeys(task.GATE_METRICS, float("nan")), before[1]
    (lost,) = gates.labels(nan, before, task.GATE_METRICS, limits)
    assert (lost.value, lost.passed) == (None, False)
    # All outcomes are the same: the best constant is right, and errors divided by its error are nothing.
    errors = dict.fromkeys(task.GATE_METRICS, 1.0), dict.fromkeys(task.GATE_METRICS, 0.0)
    assert [line.passed for line in gates.labels(errors, before, task.GATE_METRICS, limits)] == [
        False
    ]
    assert [line.passed for line in gates.labels(before, errors, task.GATE_METRICS, limits)] == [
        None
    ]


def test_only_a_surely_better_candidate_passes_the_champion(window) -> None:
    table, truth, scores, decision = window
    schema, limits = load_schema(), gates.ChampionGate(min_gain=0, confidence=0.95, resamples=200)

    def against(candidate, champion, limits=limits):
        (found,) = gates.champion(table, truth, candidate, champion, decision, schema, limits)
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


def test_a_model_worse_on_one_slice_is_refused(window) -> None:
    table, truth, scores, _ = window
    (schema, table), limits = with_side(table), load_params().gates.slices
    assert not refused(gates.slices(table, truth, scores, schema, 1, limits))
    worse, on_a = scores.copy(), (table[SIDE] == "a").to_numpy()
    worse[on_a] = turned_round(scores, schema)[on_a]
    found = gates.slices(table, truth, worse, schema, 1, limits)
    assert f"slices: {SIDE}=a" in refused(found)
    assert f"slices: {SIDE}=b" not in refused(found)
    (none,) = gates.slices(table, truth, worse, schema, len(table) + 1, limits)
    assert none.passed is None


def test_a_slice_is_not_refused_for_noise(window) -> None:
    table, truth, scores, _ = window
    schema, table = with_side(table, sides=tuple("abcdefghij"))
    quality = of(schema).slice_quality(truth, scores, schema)(np.ones(len(truth)))[
        of(schema).SLICE_METRIC
    ]
    # Of ten slices that are alike, some are below what all are, but none surely.
    limits = gates.SlicesGate(floor=quality - 0.02, max_gap=0.02)
    assert not refused(gates.slices(table, truth, scores, schema, 1, limits))


def test_a_miscalibrated_model_is_refused(window) -> None:
    _, truth, scores, decision = window
    schema, params = load_schema(), load_params().evaluate
    limits = gates.CalibrationGate(max_error=0.2 / len(schema.classes) if schema.classes else 0.3)
    assert not refused(gates.calibration(truth, scores, decision, schema, params, limits))
    if schema.classes:  # the rarest class is promised far too often
        scores = 0.3 * scores + 0.7 * np.eye(scores.shape[1])[scores.mean(axis=0).argmin()]
    else:
        scores, decision = scores + 0.01 * decision["half_width"], decision | {"half_width": 0}
    assert refused(gates.calibration(truth, scores, decision, schema, params, limits)) == [
        "calibration"
    ]


def test_few_rows_are_not_refused_for_what_chance_alone_gives(window) -> None:
    _, _, scores, decision = window
    schema, params, few = load_schema(), load_params().evaluate, scores[:60]
    draws, limits = np.random.default_rng(0), gates.CalibrationGate(max_error=1e-6)
    kept = []
    for _ in range(10):
        fair = of(schema).sample_labels(draws, few, decision, schema, params)
        kept += gates.calibration(fair, few, decision, schema, params, limits)
    assert sum(line.value > limits.max_error for line in kept) >= 7
    assert sum(line.passed for line in kept) >= 7


def test_groups_that_fare_differently_are_refused(window) -> None:
    table, truth, scores, decision = window
    limits = load_params().gates.fairness
    schema, table = with_side(pd.concat([table, table]), protected=True)
    table[SIDE] = np.repeat(["a", "b"], len(truth))
    truth, scores = np.concatenate([truth, truth]), np.concatenate([scores, scores])
    assert schema.protected == [SIDE]
    found = gates.fairness(table, truth, scores, decision, schema, 1, limits)
    assert found
    assert all(line.passed for line in found)
    unfair, on_a = scores.copy(), (table[SIDE] == "a").to_numpy()
    if schema.classes:  # side a always gets the last class, side b never
        unfair[on_a], unfair[~on_a] = np.eye(scores.shape[1])[-1], np.eye(scores.shape[1])[0]
    else:
        unfair[on_a] += 3 * np.abs(scores[:, 0] - truth).mean()
    found = gates.fairness(table, truth, unfair, decision, schema, 1, limits)
    assert refused(found) == [f"fairness: {SIDE}"] * len(found)
    table.loc[on_a, SIDE] = None
    listed = groups(table, truth, unfair, decision, schema, 1)
    assert set(listed["group"]) == {"missing", "b"}
    assert len(groups(table, truth, unfair, decision, schema, len(table))) == 0
    (one,) = gates.fairness(table[~on_a], truth[~on_a], scores[~on_a], decision, schema, 1, limits)
    assert one.passed is None
    assert list(groups(table, truth, scores, decision, load_schema(), 1).columns) == list(
        listed.columns
    )


def test_differences_are_those_of_fairlearn(window) -> None:
    table, truth, scores, decision = window
    schema, table = with_side(table, protected=True)
    apart = differences(table, SIDE, truth, scores, decision, schema, 1)
    if schema.classes:
        pairs = [(actual, called) for _, actual, called in answers(truth, scores, decision, schema)]
        measures = demographic_parity_difference, equalized_odds_difference
        expected = [
            max(measure(*pair, sensitive_features=table[SIDE]) for pair in pairs)
            for measure in measures
        ]
    else:
        errors = pd.Series(np.abs(truth - scores[:, 0]))
        expected = [np.ptp(errors.groupby(table[SIDE].to_numpy()).mean()) / errors.mean()]
    assert list(apart(np.ones(len(truth))).values()) == pytest.approx(expected)


def test_a_leaky_split_is_refused(project) -> None:
    schema, limits = load_schema(), gates.LeakageGate(max_overlap=0.001)
    train, test = tables.read_table(files.TRAIN), tables.read_table(files.TEST)
    limits.max_overlap = max(limits.max_overlap, schema.max_overlap)
    assert not refused(gates.leakage(schema, limits))
    copied = test.tail(int(len(test) * limits.max_overlap) + len(test) // 100 + 1)
    tables.write_table(files.TRAIN, pd.concat([train, copied]))
    found = refused(gates.leakage(schema, limits))
    assert "leakage: rows" in found
    assert ("leakage: time" in found) == bool(schema.timestamp)
    name = next(iter(schema.features))
    for path, table in ((files.TRAIN, train), (files.TEST, test)):
        tables.write_table(path, table.assign(**{name: table[schema.target]}))
    assert f"leakage: {name}" in refused(gates.leakage(schema, limits))


def test_a_training_window_that_reaches_into_the_test_is_refused(project) -> None:
    schema, limits = load_schema(), gates.LeakageGate(max_overlap=1)
    if not schema.timestamp:
        assert not any(line.gate == "leakage: time" for line in gates.leakage(schema, limits))
        return
    train, test = tables.read_table(files.TRAIN), tables.read_table(files.TEST)
    train.loc[train.index[0], schema.timestamp] = test[schema.timestamp].min()
    tables.write_table(files.TRAIN, train)
    assert refused(gates.leakage(schema, limits)) == ["leakage: time"]


def test_an_export_that_differs_is_refused(window) -> None:
    table, schema, limits = window[0], load_schema(), load_params().gates.parity
    scorer = open_scorer(open_bundle(files.BUNDLE))
    change(files.PARAMS, "train", "gradient_boosting", max_iter=5)
    run_stages("train")
    assert refused(gates.parity(load(files.MODEL), scorer, table, schema, limits)) == ["parity"]


def test_a_larger_bundle_is_refused(project) -> None:
    (before,) = gates.size(files.BUNDLE, gates.SizeGate(max_megabytes=1000))
    limits = gates.SizeGate(max_megabytes=before.value + 0.5)
    assert not refused(gates.size(files.BUNDLE, limits))
    (files.BUNDLE / "plots").mkdir(exist_ok=True)
    (files.BUNDLE / "plots/large.png").write_bytes(bytes(1_000_000))
    (after,) = gates.size(files.BUNDLE, limits)
    assert (after.value, after.passed) == (pytest.approx(before.value + 1), False)
