"""Gates: what a candidate must pass before it may become champion. Each is seen red in a test.

A gate is a function that takes what it judges and, last, its section of params.yaml: gates. `truth` and
`scores` belong to the rows of the window, `table`, as the task and the model give them; `operating_point` is
what the task chose on the validation window.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.pipeline import Pipeline

from mlops_loop.base import files
from mlops_loop.base.files import TEST, TRAIN
from mlops_loop.base.params import (
    BaselineGate,
    CalibrationGate,
    ChampionGate,
    EvaluateParams,
    FairnessGate,
    Gates,
    LabelsGate,
    LeakageGate,
    ParityGate,
    SizeGate,
    SlicesGate,
)
from mlops_loop.contract.schema import Schema
from mlops_loop.data import data_checks, tables
from mlops_loop.metrics import calibration, tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.fairness import differences, groups, values
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.scorer import Scorer
from mlops_loop.training import export

RESAMPLES = 200  # for what is judged by its interval or by chance


def judge(judges: dict[str, Callable[[Any], list[GateResult]]], gates: Gates) -> list[GateResult]:
    """Return the verdicts of the gates, in the order of `judges`; one that is off says so.

    A judge is named as its section of `gates`, which it is given.
    """
    found = []
    for name, verdicts in judges.items():
        limits = getattr(gates, name)
        found += verdicts(limits) if limits else [GateResult(name, "off")]
    return found


def baseline(
    measured: dict[str, float],
    naive: dict[str, float],
    better: Mapping[str, bool],
    limits: BaselineGate,
) -> list[GateResult]:
    """Judge whether each metric in `better`, which says if more of it is better, beats the naive baseline."""
    found = []
    for name, more in better.items():
        limit = naive[name] + (limits.min_gain if more else -limits.min_gain)
        found.append(compare("baseline", name, measured[name], ">" if more else "<", limit))
    return found


def champion(
    table: pd.DataFrame,
    truth: np.ndarray,
    scores: np.ndarray,
    rival: np.ndarray,
    operating_point: OperatingPoint,
    schema: Schema,
    limits: ChampionGate,
) -> list[GateResult]:
    """Judge whether the candidate surely is better than the champion, whose scores are `rival`.

    The value is the lower confidence bound of the gain in the task's first metric, from a bootstrap in
    which both have the same resamples. Equal models gain nothing, so the champion stays.
    """
    task = tasks.of(schema)
    name, more = next(iter(task.GATE_METRICS.items()))
    new, old = (
        task.weighted_metrics(truth, found, operating_point, schema) for found in (scores, rival)
    )

    def gain(weights: np.ndarray) -> dict[str, float]:
        ours, theirs = new(weights)[name], old(weights)[name]
        return {"gain": ours - theirs if more else theirs - ours}

    point = gain(np.ones(len(truth)))["gain"]
    low = resample(gain, days(table, schema), limits.resamples)["gain"].quantile(
        1 - limits.confidence
    )
    measure = f"gain in {name} {point:+.4g}, with {limits.confidence:.0%} confidence at least"
    return [compare("champion", measure, low, ">", limits.min_gain)]


def labels(
    now: tuple[dict[str, float], dict[str, float]],
    before: tuple[dict[str, float], dict[str, float]],
    better: Mapping[str, bool],
    limits: LabelsGate,
) -> list[GateResult]:
    """Judge whether the window's labels can be trusted, by how well the champion, of all, does on them.

    `now` are metrics on this window, of the champion and of the constant answer that suits it best; `before`
    are those on the champion's own test window. The value is the share of its gain that is left, in a metric
    that a changed rate alone does not spoil if the task has one. A model loses some of it as the world
    changes; if nearly all is gone, the labels may be wrong: a person must look.
    """
    name, more = max(better.items(), key=lambda metric: metric[1])
    if not now[1][name]:
        return [
            GateResult(
                "labels", f"the target does not vary: {name} of a constant is 0", None, "", False
            )
        ]
    if not before[1][name]:
        return [
            GateResult(
                "labels", "the target did not vary when the champion was judged", None, "", None
            )
        ]
    gains = [
        (1 if more else -1) * (model[name] / constant[name] - 1)
        for model, constant in (now, before)
    ]
    if not gains[1] > 0:
        return [GateResult("labels", f"the champion never had a gain in {name}", None, "", None)]
    measure = f"gain of the champion in {name} over a constant {gains[0]:+.1%}, was {gains[1]:+.1%}, a share of"
    return [compare("labels", measure, gains[0] / gains[1], ">=", limits.min_skill)]


def slices(
    table: pd.DataFrame,
    truth: np.ndarray,
    scores: np.ndarray,
    schema: Schema,
    minimum: int,
    limits: SlicesGate,
) -> list[GateResult]:
    """Judge the slices with at least `minimum` rows: their quality, and how far below the whole it is.

    The values are the favourable ends of 95 % bootstrap intervals, so that no slice is refused for noise.
    Of each limit those slices are told that break it, or else the one that is nearest to it. A slice
    whose rows are all of one class is not judged.
    """
    task, floors, gaps = tasks.of(schema), [], []
    whole = task.slice_quality(truth, scores, schema)
    of_all = whole(np.ones(len(truth))) if whole else {}
    for name in schema.slices if whole else ():
        for value, rows in table.groupby(values(table[name])).indices.items():
            if len(rows) < minimum or not (
                part := task.slice_quality(truth[rows], scores[rows], schema)
            ):
                continue
            measured = part(np.ones(len(rows)))
            found = resample(part, days(table.iloc[rows], schema), RESAMPLES)
            gate, best = f"slices: {name}={value}", found[task.SLICE_METRIC].quantile(0.975)
            told = f"{task.SLICE_METRIC} {measured[task.SLICE_METRIC]:.4g}, at best"
            floors.append(compare(gate, told, best, ">", limits.floor))
            told, best = (
                f"{task.SLICE_GAP} {task.slice_gap(of_all, measured):.4g}, at best",
                task.slice_gap(of_all, found),
            )
            gaps.append(compare(gate, told, best.quantile(0.025), "<=", limits.max_gap))
    if not floors:
        return [
            GateResult(
                "slices", f"no slice with {minimum} rows and several outcomes", None, "", None
            )
        ]
    nearest = (
        [min(floors, key=lambda line: line.value or 0)],
        [max(gaps, key=lambda line: line.value or 0)],
    )
    broken = ([line for line in lines if not line.passed] for lines in (floors, gaps))
    return [line for lines, near in zip(broken, nearest, strict=True) for line in lines or near]


def calibration_error(
    truth: np.ndarray,
    scores: np.ndarray,
    operating_point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
    limits: CalibrationGate,
) -> list[GateResult]:
    """Judge how far the model's promises are from what is observed: probabilities, or intervals' coverage.

    Where that is more than `max_error`, the limit is what a model whose promises are right would have
    by chance with so few rows, in 95 of 100 cases.
    """
    found = calibration.calibration(
        truth, scores, operating_point, schema, params, limits.max_error
    )
    measure = tasks.of(schema).MISCALIBRATION
    return [compare("calibration", measure, found.error, "<=", found.limit)]


def fairness(
    table: pd.DataFrame,
    truth: np.ndarray,
    scores: np.ndarray,
    operating_point: OperatingPoint,
    schema: Schema,
    minimum: int,
    limits: FairnessGate,
) -> list[GateResult]:
    """Judge how differently the groups of each protected column fare, those with `minimum` rows or more.

    The values are the favourable ends of 95 % bootstrap intervals, as of the slices.

    Of a classification the largest difference of selection rates, and that of true or false positive
    rates, which is 0 where odds are equalized. Source: Hardt, Price and Srebro, Equality of opportunity
    in supervised learning, NeurIPS 2016. Of a regression the difference of mean absolute errors, as a
    share of that of all rows.
    """
    every, found = groups(table, truth, scores, operating_point, schema, minimum), []
    told = {
        "selection": ("difference of selection rates", limits.max_selection_difference),
        "error": ("difference of true or false positive rates", limits.max_error_difference),
    }
    if not schema.classes:
        told = {"error": ("difference of mae, as a share of it", limits.max_error_difference)}
    for name in schema.protected:
        gate, judged = f"fairness: {name}", every[every["column"] == name]["group"].nunique()
        if judged < 2:
            few = f"groups with {minimum} rows: too few to judge"
            found.append(GateResult(gate, few, judged, "", None))
            continue
        apart = differences(table, name, truth, scores, operating_point, schema, minimum)
        measured = apart(np.ones(len(truth)))
        lows = resample(apart, days(table, schema), RESAMPLES).quantile(0.025)
        for key, (what, limit) in told.items():
            found.append(
                compare(gate, f"{what} {measured[key]:.4g}, at best", lows[key], "<=", limit)
            )
    return found or [GateResult("fairness", "no column is protected", None, "", None)]


def leakage(schema: Schema, limits: LeakageGate) -> list[GateResult]:
    """Judge, on the training and test files themselves, whether the test is an honest one.

    Training must end before the test window begins, few test rows may also be training rows (in their
    features and target), and no feature alone may tell the target.
    """
    return [*overlap_in_time(schema), overlap_of_rows(schema, limits), *telling_features(schema)]


def overlap_in_time(schema: Schema) -> list[GateResult]:
    if not schema.timestamp:
        return []
    times = [
        pq.read_table(path, columns=[schema.timestamp])[schema.timestamp] for path in (TRAIN, TEST)
    ]
    last, first = pc.max(times[0]).as_py(), pc.min(times[1]).as_py()
    measure = f"seconds from the last training row, {last}, to the first test row, {first}"
    return [compare("leakage: time", measure, (first - last).total_seconds(), ">", 0)]


def overlap_of_rows(schema: Schema, limits: LeakageGate) -> GateResult:
    names = [*schema.features, schema.target]
    trained, tested = (row_hashes(path, names) for path in (TRAIN, TEST))
    share, limit = (
        float(np.isin(tested, trained).mean()),
        max(limits.max_overlap, schema.max_overlap),
    )
    return compare(
        "leakage: rows", "share of the test rows that are in training", share, "<=", limit
    )


def row_hashes(path: Path, names: list[str]) -> np.ndarray:
    parts = pq.ParquetFile(path).iter_batches(files.BATCH, columns=names)
    return np.concatenate([data_checks.hashes(part.to_pandas(), names) for part in parts])


def telling_features(schema: Schema) -> list[GateResult]:
    """Return the verdicts on the features that tell the target, or else on the one that tells most."""
    table = pd.concat([tables.read_sample(path, data_checks.LEAK_ROWS) for path in (TRAIN, TEST)])
    found = data_checks.leaks(table, schema.features, schema.target, schema.task == "regression")
    lines = [
        compare(
            f"leakage: {name}", f"how well it tells {schema.target}", score, "<", schema.max_leakage
        )
        for name, score in found.items()
    ]
    return [line for line in lines if not line.passed] or sorted(
        lines, key=lambda line: -(line.value or 0)
    )[:1]


def parity(
    model: Pipeline, scorer: Scorer, table: pd.DataFrame, schema: Schema, limits: ParityGate
) -> list[GateResult]:
    """Judge how far the exported model's scores are from the trained one's, relative to the largest."""
    parts = (table.iloc[first : first + files.BATCH] for first in range(0, len(table), files.BATCH))
    found = max(export.difference(model, scorer, part, schema) for part in parts)
    return [compare("parity", "largest difference, relative", found, "<=", limits.max_difference)]


def size(bundle: Path, limits: SizeGate) -> list[GateResult]:
    """Judge the size of a bundle's folder; a megabyte has 1,000,000 bytes."""
    found = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6
    return [compare("size", "megabytes of the bundle", found, "<=", limits.max_megabytes)]
