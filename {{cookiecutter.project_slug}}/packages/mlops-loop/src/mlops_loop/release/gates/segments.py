"""Segments: each category with enough rows is judged on its own, where a bundle has a model each.

It must beat the naive baseline of its own rows, not surely lose to the champion, and be calibrated.
The values are the favourable ends of bootstrap intervals, so that no segment is refused for noise;
they are as much wider as there are segments to go wrong (Bonferroni's correction).
"""

from dataclasses import replace

import numpy as np

from mlops_loop.base.files import TRAIN
from mlops_loop.base.params import Gates
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.gate_result import GateResult, Relation, compare
from mlops_loop.metrics.segments import gains, naive, segment_rows
from mlops_loop.metrics.values import Numbers, Scores
from mlops_loop.release.candidate import Candidate
from mlops_loop.release.gates.quality import calibration

RESAMPLES = 1000
CHANCE = 0.05  # of refusing any of the segments of a model that is as good


def segments(candidate: Candidate, gates: Gates) -> list[GateResult]:
    """Return a result for each segment and gate; none for a bundle without segments."""
    if not (made := candidate.bundle.manifest.segments):
        return []
    places = segment_rows(candidate.table, made.column)
    enough = candidate.params.min_slice_rows
    judged = {
        f"{made.column}={value}": rows
        for value, rows in places.items()
        if len(rows) >= enough and tasks.slice_metrics(candidate.scored.at(rows))
    }
    if not judged:
        return [GateResult("segments", f"no segment with {enough} rows and several outcomes")]
    found = list[GateResult]()
    if gates.baseline:
        train = tables.read_table(TRAIN)
        usual = naive(train, candidate.table, made.column, candidate.scored)
        metrics = tasks.of(candidate.schema).BASELINE_METRICS
        least = gates.baseline.min_gain
        found += compared(candidate, usual, judged, "baseline", metrics, (">", least))
    champion = candidate.champion
    if gates.champion and champion and champion.scores is not None:
        metrics = dict([tasks.deciding_metric(candidate.schema)])
        found += compared(candidate, champion.scores, judged, "champion", metrics, (">=", 0))
    if limits := gates.calibration:
        for name, rows in judged.items():
            part = replace(candidate, truth=candidate.truth[rows], scores=candidate.scores[rows])
            for result in calibration(part, limits):
                found.append(replace(result, gate=f"{result.gate}: {name}"))
    return found


def compared(
    candidate: Candidate,
    others: Scores,
    judged: dict[str, Numbers],
    gate: str,
    metrics: dict[str, bool],
    limit: tuple[Relation, float],
) -> list[GateResult]:
    """Judge the gain over other scores of the same rows, in each segment and metric."""
    found = list[GateResult]()
    for name, rows in judged.items():
        new = candidate.scored.at(rows)
        gain = gains(new, replace(new, scores=others[rows]), metrics)
        drawn = days(candidate.table.iloc[rows], candidate.schema)
        upper = resample(gain, drawn, RESAMPLES).quantile(1 - CHANCE / len(judged))
        for metric, measured in gain(np.ones(len(rows))).items():
            measure = f"gain in {metric}, upper end of its interval (measured {measured:+.4g})"
            found.append(compare(f"{gate}: {name}", measure, upper[metric], *limit))
    return found
