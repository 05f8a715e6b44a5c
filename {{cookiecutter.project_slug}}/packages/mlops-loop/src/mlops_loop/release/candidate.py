"""Candidate: the model to be judged, with all that a gate may judge it by."""

from dataclasses import dataclass

import pandas as pd

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import TRAIN
from mlops_loop.base.params import EvaluateParams, Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.data.derived import with_derived
from mlops_loop.metrics import own_metrics, tasks
from mlops_loop.metrics.values import Metrics, Scored, Scores, Truth
from mlops_loop.release.champion_inputs import with_champion_inputs
from mlops_loop.scoring.bundle import Bundle, OperatingPoint
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns


@dataclass(frozen=True)
class Champion:
    """The version that is served, to compare with."""

    bundle: Bundle
    scores: Scores | None  # of the candidate's rows; None if it cannot score them
    problem: str = ""  # why it cannot, and what to do


@dataclass(frozen=True)
class Candidate:
    """Its scores, of shape (rows, classes) or (rows, 1), belong to the rows of `table`."""

    bundle: Bundle
    params: EvaluateParams
    table: pd.DataFrame  # the test window
    truth: Truth
    scores: Scores
    operating_point: OperatingPoint
    metrics: Metrics  # of these scores
    baseline: Metrics  # of the naive baseline's
    champion: Champion | None  # None if there is none of this target

    @property
    def schema(self) -> Schema:
        return self.bundle.schema

    @property
    def scored(self) -> Scored:
        return Scored(self.truth, self.scores, self.operating_point, self.schema, self.params)


def score(bundle: Bundle, table: pd.DataFrame) -> Scores:
    """Return a bundle's scores of the rows of a table, of shape (rows, classes) or (rows, 1)."""
    features = with_derived(table, bundle.schema)
    return open_scorer(bundle).scores(columns(features, bundle.schema))


def open_candidate(
    bundle: Bundle, champion: Champion | None, window: pd.DataFrame, params: EvaluateParams
) -> Candidate:
    schema = bundle.schema
    point = bundle.operating_point
    task = tasks.of(schema)
    truth = task.truth(window, schema)
    scores = score(bundle, window)
    naive = task.baseline(tables.read_table(TRAIN), window, schema, params.baseline_by)
    metrics, baseline = (
        own_metrics.measure(Scored(truth, each, point, schema, params)) for each in (scores, naive)
    )
    return Candidate(
        bundle, params, window, truth, scores, point, metrics, baseline, champion=champion
    )


def same_target(champion: Bundle, candidate: Bundle) -> bool:
    old = champion.schema
    new = candidate.schema
    return (old.task, old.target) == (new.task, new.target)


def open_champion(
    champion: Bundle, candidate: Bundle, window: pd.DataFrame, params: Params
) -> Champion | None:
    """Return the champion with its scores of the candidate's rows; None if it has another target.

    The window is scored only if a gate compares with the champion.
    """
    if not same_target(champion, candidate):
        return None
    if params.gates.champion is None and params.gates.labels is None:
        return Champion(champion, None)
    try:
        inputs = with_champion_inputs(champion.schema, candidate.schema, window, params)
        return Champion(champion, score(champion, inputs))
    except Failure as failure:
        mend = "set gates.champion in params.yaml to null, for this promotion, to go on without"
        return Champion(champion, None, f"{failure}; or {mend}")
