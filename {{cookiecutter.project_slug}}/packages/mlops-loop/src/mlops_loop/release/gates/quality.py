"""Quality: export, size, baseline, slices, calibration, fairness and behaviour.yaml."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.files import MODEL
from mlops_loop.base.params import (
    BaselineGate,
    BehaviourGate,
    CalibrationGate,
    FairnessGate,
    ParityGate,
    SizeGate,
    SlicesGate,
)
from mlops_loop.metrics import calibration as calibrations
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.fairness import differences
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.groups import group_values
from mlops_loop.release.candidate import Candidate, score
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import load
from mlops_loop.training import export
from mlops_loop.training.behaviour import check, gate_results, load_behaviour

RESAMPLES = 200  # for what is judged by its interval


def parity(candidate: Candidate, limits: ParityGate) -> list[GateResult]:
    """Judge the relative difference between the exported model's scores and the trained one's."""
    model = load(MODEL)
    scorer = open_scorer(candidate.bundle)
    table = candidate.table
    parts = (table.iloc[first : first + files.BATCH] for first in range(0, len(table), files.BATCH))
    found = max(export.difference(model, scorer, part, candidate.schema) for part in parts)
    return [compare("parity", "largest difference, relative", found, "<=", limits.max_difference)]


def size(candidate: Candidate, limits: SizeGate) -> list[GateResult]:
    """Judge the size of the bundle's folder; a megabyte has 1,000,000 bytes."""
    paths = candidate.bundle.folder.rglob("*")
    found = sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
    return [compare("size", "megabytes of the bundle", found, "<=", limits.max_megabytes)]


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
    noise. A slice whose rows are all of one class is not judged.
    """
    schema = candidate.schema
    task = tasks.of(schema)
    minimum = candidate.params.min_slice_rows
    whole = tasks.weighted(candidate.scored)
    floors = list[GateResult]()
    gaps = list[GateResult]()
    for gate, rows in slice_rows(candidate).items():
        scored = candidate.scored.at(rows)
        measured = tasks.weighted(scored)
        if len(rows) < minimum or np.isnan(measured[task.SLICE_METRIC]):
            continue
        drawn = days(candidate.table.iloc[rows], schema)
        found = resample(task.weighted_metrics(scored), drawn, RESAMPLES)
        best = found[task.SLICE_METRIC].quantile(0.975)
        value = f"measured {measured[task.SLICE_METRIC]:.4g}"
        metric = f"{task.SLICE_METRIC}, upper end of its interval ({value})"
        floors.append(compare(gate, metric, best, ">", limits.floor))
        lag = task.slice_gap(whole, pd.DataFrame([measured])).iloc[0]
        least = task.slice_gap(whole, found).quantile(0.025)
        gap = f"{task.SLICE_GAP}, lower end of its interval (measured {lag:.4g})"
        gaps.append(compare(gate, gap, least, "<=", limits.max_gap))
    if not floors:
        return [GateResult("slices", f"no slice with {minimum} rows and several outcomes")]
    # Of each limit those that break it, or else the one that is nearest to it.
    lowest = min(floors, key=lambda line: line.value or 0)
    widest = max(gaps, key=lambda line: line.value or 0)
    return [
        *([line for line in floors if not line.passed] or [lowest]),
        *([line for line in gaps if not line.passed] or [widest]),
    ]


def slice_rows(candidate: Candidate) -> dict[str, NDArray[np.int64]]:
    """Return the places of each slice's rows, by what the gate table calls it."""
    table = candidate.table
    return {
        f"slices: {name}={value}": rows
        for name in candidate.schema.slices
        for value, rows in table.groupby(group_values(table[name])).indices.items()
    }


def calibration(candidate: Candidate, limits: CalibrationGate) -> list[GateResult]:
    """Judge the calibration of probabilities, or the coverage of a regression's intervals."""
    error, limit = calibrations.calibration(candidate.scored, limits.max_error)
    measure = tasks.of(candidate.schema).MISCALIBRATION
    return [compare("calibration", measure, error, "<=", limit)]


def fairness(candidate: Candidate, limits: FairnessGate) -> list[GateResult]:
    """Judge how differently the groups of each protected column fare, those with enough rows.

    Of a classification the largest difference of selection rates, and that of true or false
    positive rates, which is 0 where odds are equalized. Source: Hardt, Price and Srebro, Equality
    of opportunity in supervised learning, NeurIPS 2016. Of a regression the difference of mean
    absolute errors, as a share of that of all rows. The values are the favourable ends of 95 %
    bootstrap intervals.
    """
    schema = candidate.schema
    table = candidate.table
    minimum = candidate.params.min_slice_rows
    about = {
        "selection": ("difference of selection rates", limits.max_selection_difference),
        "error": ("difference of true or false positive rates", limits.max_error_difference),
    }
    if not schema.classes:
        about = {"error": ("difference of mae, as a share of it", limits.max_error_difference)}
    found = list[GateResult]()
    for name in schema.protected:
        gate = f"fairness: {name}"
        large = (group_values(table[name]).value_counts() >= minimum).sum()
        if large < 2:
            few = f"groups with {minimum} rows: too few to judge"
            found.append(GateResult(gate, few, int(large)))
            continue
        apart = differences(table, candidate.scored, name)
        measured = apart(np.ones(len(table)))
        lows = resample(apart, days(table, schema), RESAMPLES).quantile(0.025)
        for kind, (what, limit) in about.items():
            measure = f"{what}, lower end (measured {measured[kind]:.4g})"
            found.append(compare(gate, measure, lows[kind], "<=", limit))
    return found or [GateResult("fairness", "no column is protected")]


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
