"""The candidate against the champion, and the champion against the window's labels."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlops_loop.base.params import ChampionGate, LabelsGate
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.values import Metrics, Scored, Weights
from mlops_loop.release.candidate import Candidate
from mlops_loop.scoring.bundle import HELD_OUT


def champion(candidate: Candidate, limits: ChampionGate) -> list[GateResult]:
    """Judge whether the candidate surely is better than the champion.

    The value is the lower confidence bound of the gain in the task's first metric, from a bootstrap
    in which both have the same resamples. Equal models gain nothing, so the champion stays.
    """
    if candidate.champion is None:
        return [GateResult("champion", "there is none of this target")]
    if candidate.champion.scores is None:
        return [GateResult("champion", candidate.champion.problem, passed=False)]
    schema = candidate.schema
    name, more = tasks.deciding_metric(schema)
    new, old = (
        tasks.of(schema).weighted_metrics(replace(candidate.scored, scores=scores))
        for scores in (candidate.scores, candidate.champion.scores)
    )

    def gain(weights: Weights) -> Metrics:
        difference = new(weights)[name] - old(weights)[name]
        return {"gain": difference if more else -difference}

    point = gain(np.ones(len(candidate.truth)))["gain"]
    gains = resample(gain, days(candidate.table, schema), limits.resamples)["gain"]
    measure = f"gain in {name} {point:+.4g}, with {limits.confidence:.0%} confidence at least"
    low = gains.quantile(1 - limits.confidence)
    return [compare("champion", measure, low, ">", limits.min_gain)]


def labels(candidate: Candidate, limits: LabelsGate) -> list[GateResult]:
    """Guard against bad labels: if the champion suddenly scores near chance, suspect the labels.

    The value is the share that is left of its gain on its own test window, in a metric that a
    changed rate alone does not spoil, if the task has such a one. A model loses some of it as the
    world changes; if nearly all is gone, a person must look.
    """
    found = candidate.champion
    if found is None or found.scores is None or not (found.bundle.folder / HELD_OUT).is_file():
        return [GateResult("labels", "there is no champion to compare with")]
    name, more = max(tasks.of(candidate.schema).GATE_METRICS.items(), key=lambda metric: metric[1])
    served = replace(candidate.scored, scores=found.scores, point=found.bundle.operating_point)
    held_out = tables.read_table(found.bundle.folder / HELD_OUT)
    truth, scores = held_out_scores(held_out, candidate.schema)
    former = gain_over_constant(held_out, replace(served, truth=truth, scores=scores), name, more)
    gain = gain_over_constant(candidate.table, served, name, more)
    if not former > 0:
        return [GateResult("labels", f"the champion never had a gain in {name}")]
    over = f"gain of the champion in {name} over a constant"
    measure = f"{over} {gain:+.1%}, was {former:+.1%}, a share of"
    return [compare("labels", measure, gain / former, ">=", limits.min_skill)]


def gain_over_constant(table: pd.DataFrame, scored: Scored, name: str, more: bool) -> float:
    """Return a model's gain over the constant answer that suits the rows best, as a share of its
    value; NaN if the target does not vary.
    """
    answer = tasks.of(scored.schema).baseline(table, table, scored.schema, None)
    constant = tasks.measure(replace(scored, scores=answer))[name]
    share = tasks.measure(scored)[name] / constant - 1 if constant else np.nan
    return share if more else -share
