"""Quality: against the baseline, on slices, calibration, fairness and behaviour.yaml."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.base.params import (
    BaselineGate,
    BehaviourGate,
    CalibrationGate,
    FairnessGate,
    SlicesGate,
)
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import calibration as calibrations
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.fairness import Judged, differences
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Metrics
from mlops_loop.release.candidate import Candidate, score
from mlops_loop.training.behaviour.check import check, gate_results
from mlops_loop.training.behaviour.declaration import load_behaviour

RESAMPLES = 200  # for what is judged by its interval


def baseline(candidate: Candidate, limits: BaselineGate) -> list[GateResult]:
    """Judge whether each of these metrics beats the naive baseline's."""
    found = []
    for name, more in tasks.of(candidate.schema).BASELINE_METRICS.items():
        limit = candidate.baseline[name] + (limits.min_gain if more else -limits.min_gain)
        value = candidate.metrics[name]
        found.append(compare("baseline", name, value, ">" if more else "<", limit))
    return found


def slices(candidate: Candidate, limits: SlicesGate) -> list[GateResult]:
    """Judge the slices with enough rows: their quality, and how far below the whole it is.

    The values are the favourable ends of 95 % bootstrap intervals, so that no slice is refused for
    noise. Of each limit the slices are listed that break it, or else the one that is nearest to it.
    A slice whose rows are all of one class is not judged.
    """
    schema = candidate.schema
    minimum = candidate.params.min_slice_rows
    whole = tasks.of(schema).slice_quality(candidate.truth, candidate.scores, schema)
    floors = list[GateResult]()
    gaps = list[GateResult]()
    if whole:
        of_all = whole(np.ones(len(candidate.truth)))
        for gate, rows in members(candidate.table, schema):
            if len(rows) >= minimum and (found := one_slice(candidate, gate, rows, of_all, limits)):
                floors.append(found[0])
                gaps.append(found[1])
    if not floors:
        return [GateResult("slices", f"no slice with {minimum} rows and several outcomes")]
    lowest = min(floors, key=lambda line: line.value or 0)
    widest = max(gaps, key=lambda line: line.value or 0)
    return [*(broken(floors) or [lowest]), *(broken(gaps) or [widest])]


def members(table: pd.DataFrame, schema: Schema) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the places of each slice's rows, and what the gate table calls it."""
    for name in schema.slices:
        for value, rows in table.groupby(group_values(table[name])).indices.items():
            yield f"slices: {name}={value}", rows


def broken(lines: list[GateResult]) -> list[GateResult]:
    return [line for line in lines if not line.passed]


def one_slice(
    candidate: Candidate, gate: str, rows: NDArray[np.int64], whole: Metrics, limits: SlicesGate
) -> tuple[GateResult, GateResult] | None:
    """Judge a slice by its floor and its gap; None if its rows cannot have the metric."""
    schema = candidate.schema
    task = tasks.of(candidate.schema)
    quality = task.slice_quality(candidate.truth[rows], candidate.scores[rows], schema)
    if quality is None:
        return None
    measured = quality(np.ones(len(rows)))
    found = resample(quality, days(candidate.table.iloc[rows], schema), RESAMPLES)
    best = found[task.SLICE_METRIC].quantile(0.975)
    value = f"measured {measured[task.SLICE_METRIC]:.4g}"
    metric = f"{task.SLICE_METRIC}, upper end of its interval ({value})"
    lag = task.slice_gap(whole, pd.DataFrame([measured])).iloc[0]
    gap = f"{task.SLICE_GAP}, lower end of its interval (measured {lag:.4g})"
    least = task.slice_gap(whole, found).quantile(0.025)
    floor = compare(gate, metric, best, ">", limits.floor)
    return floor, compare(gate, gap, least, "<=", limits.max_gap)


def calibration(candidate: Candidate, limits: CalibrationGate) -> list[GateResult]:
    """Judge the calibration of probabilities, or the coverage of a regression's intervals.

    Where that is more than `max_error`, the limit is what a model whose promises are right would
    have by chance with so few rows, in 95 of 100 cases.
    """
    found = calibrations.calibration(
        candidate.truth,
        candidate.scores,
        candidate.operating_point,
        candidate.schema,
        candidate.params,
        limits.max_error,
    )
    measure = tasks.of(candidate.schema).MISCALIBRATION
    return [compare("calibration", measure, found.error, "<=", found.limit)]


def fairness(candidate: Candidate, limits: FairnessGate) -> list[GateResult]:
    """Judge how differently the groups of each protected column fare, those with enough rows.

    Of a classification the largest difference of selection rates, and that of true or false
    positive rates, which is 0 where odds are equalized. Source: Hardt, Price and Srebro, Equality
    of opportunity in supervised learning, NeurIPS 2016. Of a regression the difference of mean
    absolute errors, as a share of that of all rows.
    """
    found = list[GateResult]()
    for name in candidate.schema.protected:
        found += protected_column(candidate, name, limits)
    return found or [GateResult("fairness", "no column is protected")]


def protected_column(candidate: Candidate, name: str, limits: FairnessGate) -> list[GateResult]:
    """Judge a protected column by the favourable ends of 95 % bootstrap intervals."""
    schema = candidate.schema
    minimum = candidate.params.min_slice_rows
    gate = f"fairness: {name}"
    judged = Judged(
        candidate.table,
        candidate.truth,
        candidate.scores,
        candidate.operating_point,
        schema,
        minimum,
    )
    large = (group_values(candidate.table[name]).value_counts() >= minimum).sum()
    if large < 2:
        return [GateResult(gate, f"groups with {minimum} rows: too few to judge", int(large))]
    about = {
        "selection": ("difference of selection rates", limits.max_selection_difference),
        "error": ("difference of true or false positive rates", limits.max_error_difference),
    }
    if not schema.classes:
        about = {"error": ("difference of mae, as a share of it", limits.max_error_difference)}
    apart = differences(judged, name)
    measured = apart(np.ones(len(judged.truth)))
    lows = resample(apart, days(judged.table, schema), RESAMPLES).quantile(0.025)
    return [
        compare(gate, f"{what}, lower end (measured {measured[kind]:.4g})", lows[kind], "<=", limit)
        for kind, (what, limit) in about.items()
    ]


def behaviour(candidate: Candidate, limits: BehaviourGate) -> list[GateResult]:
    """Judge the candidate by the tests that behaviour.yaml declares."""
    found = check(
        load_behaviour(candidate.schema),
        candidate.table,
        lambda rows: score(candidate.bundle, rows),
        candidate.schema,
        limits.rows,
        candidate.operating_point,
    )
    return gate_results(found)
