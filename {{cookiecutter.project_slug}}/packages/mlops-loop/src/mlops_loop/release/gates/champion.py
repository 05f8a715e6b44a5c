"""The candidate against the champion, and the champion against the window's labels."""

from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Skill:
    """A metric of a model, and of the constant answer that suits the same rows best."""

    model: float
    constant: float

    def gain(self, more_is_better: bool) -> float:
        """Return the model's gain over the constant, as a share of the latter's value."""
        return (1 if more_is_better else -1) * (self.model / self.constant - 1)


def labels(candidate: Candidate, limits: LabelsGate) -> list[GateResult]:
    """Guard against bad labels: if the champion suddenly scores near chance, suspect the labels.

    The metric is one that a changed rate alone does not spoil, if the task has such a one.
    """
    found = candidate.champion
    if found is None or found.scores is None or not (found.bundle.folder / HELD_OUT).is_file():
        return [GateResult("labels", "there is no champion to compare with")]
    task = tasks.of(candidate.schema)
    name, more = max(task.GATE_METRICS.items(), key=lambda metric: metric[1])

    def skill(table: pd.DataFrame, scored: Scored) -> Skill:
        constant = task.baseline(table, table, candidate.schema, None)
        best = tasks.measure(replace(scored, scores=constant))
        return Skill(tasks.measure(scored)[name], best[name])

    served = replace(candidate.scored, scores=found.scores, point=found.bundle.operating_point)
    held_out = tables.read_table(found.bundle.folder / HELD_OUT)
    truth, scores = held_out_scores(held_out, candidate.schema)
    before = skill(held_out, replace(served, truth=truth, scores=scores))
    now = skill(candidate.table, served)
    return [label_trust(now, before, name, more, limits)]


def label_trust(now: Skill, before: Skill, name: str, more: bool, limits: LabelsGate) -> GateResult:
    """Judge the window's labels by the champion's skill now, and on its own test window.

    The value is the share of its gain that is left. A model loses some of it as the world changes;
    if nearly all is gone, the labels may be wrong: a person must look.
    """
    if not now.constant:
        same = f"the target does not vary: {name} of a constant is 0"
        return GateResult("labels", same, passed=False)
    if not before.constant:
        return GateResult("labels", "the target did not vary when the champion was judged")
    gain = now.gain(more)
    former = before.gain(more)
    if not former > 0:
        return GateResult("labels", f"the champion never had a gain in {name}")
    over = f"gain of the champion in {name} over a constant"
    measure = f"{over} {gain:+.1%}, was {former:+.1%}, a share of"
    return compare("labels", measure, gain / former, ">=", limits.min_skill)
