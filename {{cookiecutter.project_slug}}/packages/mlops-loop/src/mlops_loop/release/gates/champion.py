"""The candidate against the champion, and the champion against the window's labels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops_loop.base.params import ChampionGate, EvaluateParams, LabelsGate
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import days, resample
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.values import Metrics, Scores, Truth, Weights
from mlops_loop.release.candidate import Candidate
from mlops_loop.scoring.bundle import HELD_OUT
from mlops_loop.scoring.operating_point import OperatingPoint


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
    truth = candidate.truth
    task = tasks.of(schema)
    name, more = tasks.deciding_metric(schema)
    new, old = (
        task.weighted_metrics(truth, scores, candidate.operating_point, schema)
        for scores in (candidate.scores, candidate.champion.scores)
    )

    def gain(weights: Weights) -> Metrics:
        ours = new(weights)[name]
        theirs = old(weights)[name]
        return {"gain": ours - theirs if more else theirs - ours}

    point = gain(np.ones(len(truth)))["gain"]
    gains = resample(gain, days(candidate.table, schema), limits.resamples)["gain"]
    measure = f"gain in {name} {point:+.4g}, with {limits.confidence:.0%} confidence at least"
    low = gains.quantile(1 - limits.confidence)
    return [compare("champion", measure, low, ">", limits.min_gain)]


@dataclass(frozen=True)
class Skill:
    """Metrics of a model, and of the constant answer that suits the same rows best."""

    model: Metrics
    constant: Metrics

    def gain(self, name: str, more_is_better: bool) -> float:
        """Return the model's gain over the constant in a metric, as a share of the latter's."""
        return (1 if more_is_better else -1) * (self.model[name] / self.constant[name] - 1)


def skill(
    table: pd.DataFrame,
    truth: Truth,
    scores: Scores,
    operating_point: OperatingPoint,
    schema: Schema,
    params: EvaluateParams,
) -> Skill:
    task = tasks.of(schema)
    constant = task.baseline(table, table, schema, None)
    return Skill(
        task.measure(truth, scores, operating_point, schema, params),
        task.measure(truth, constant, operating_point, schema, params),
    )


def labels(candidate: Candidate, limits: LabelsGate) -> list[GateResult]:
    """Guard against bad labels: if the champion suddenly scores near chance, suspect the labels."""
    found = candidate.champion
    schema = candidate.schema
    params = candidate.params
    if found is None or found.scores is None or not (found.bundle.folder / HELD_OUT).is_file():
        return [GateResult("labels", "there is no champion to compare with")]
    point = found.bundle.operating_point
    now = skill(candidate.table, candidate.truth, found.scores, point, schema, params)
    held_out = tables.read_table(found.bundle.folder / HELD_OUT)
    known, scored = held_out_scores(held_out, schema)
    before = skill(held_out, known, scored, point, schema, params)
    return [label_trust(now, before, tasks.of(schema).GATE_METRICS, limits)]


def label_trust(
    now: Skill, before: Skill, better: Mapping[str, bool], limits: LabelsGate
) -> GateResult:
    """Judge the window's labels by the champion's skill now, and on its own test window.

    The value is the share of its gain that is left, in a metric that a changed rate alone does not
    spoil if the task has one. A model loses some of it as the world changes; if nearly all is gone,
    the labels may be wrong: a person must look.
    """
    name, more = max(better.items(), key=lambda metric: metric[1])
    if not now.constant[name]:
        same = f"the target does not vary: {name} of a constant is 0"
        return GateResult("labels", same, passed=False)
    if not before.constant[name]:
        return GateResult("labels", "the target did not vary when the champion was judged")
    gain = now.gain(name, more)
    former = before.gain(name, more)
    if not former > 0:
        return GateResult("labels", f"the champion never had a gain in {name}")
    over = f"gain of the champion in {name} over a constant"
    measure = f"{over} {gain:+.1%}, was {former:+.1%}, a share of"
    return compare("labels", measure, gain / former, ">=", limits.min_skill)
