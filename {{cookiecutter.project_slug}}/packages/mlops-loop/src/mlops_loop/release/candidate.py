"""Candidate: the model to be judged, with all that a gate may judge it by."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import TEST, TRAIN
from mlops_loop.base.params import EvaluateParams, Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import split, tables
from mlops_loop.data.derived import typed_batches, with_derived
from mlops_loop.data.ingest import needed
from mlops_loop.data.source.select import Misfit
from mlops_loop.metrics import own_metrics, tasks
from mlops_loop.metrics.values import Metrics, Scored, Scores, Truth
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
    return Candidate(bundle, params, window, truth, scores, point, metrics, baseline, champion)


def open_champion(
    champion: Bundle, candidate: Bundle, window: pd.DataFrame, params: Params
) -> Champion | None:
    """Return the champion with its scores of the candidate's rows; None if it has another target.

    The window is scored only if a gate compares with the champion.
    """
    old = champion.schema
    new = candidate.schema
    if (old.task, old.target) != (new.task, new.target):
        return None
    if params.gates.champion is None and params.gates.labels is None:
        return Champion(champion, None)
    try:
        return Champion(champion, score(champion, with_champion_inputs(old, new, window, params)))
    except Failure as failure:
        mend = "set gates.champion in params.yaml to null, for this promotion, to go on without"
        return Champion(champion, None, f"{failure}; or {mend}")


def with_champion_inputs(
    champion: Schema, schema: Schema, window: pd.DataFrame, params: Params
) -> pd.DataFrame:
    """Return the test window (`window`, sampled as for the gates) with all columns of the champion.

    The pipeline's files hold the contract's columns alone, so that they depend on nothing but data,
    code and parameters. What it has dropped and the champion needs is read from the source again.
    Raises a Failure that says what to do if there is no way to compare.
    """
    if champion.classes != schema.classes:
        raise Failure(f"the champion knows other classes of {schema.target!r}: keep them")
    lacking = {
        name: column.model_copy(update={"role": "slice"})
        for name, column in champion.inputs.items()
        if name not in schema.used or schema.used[name].type != column.type
    }
    if not lacking:
        return window
    wider = schema.model_copy(update={"columns": {**schema.columns, **lacking}})
    keys = [name for name in (schema.target, schema.timestamp) if name]
    rows = read_again(wider, [*keys, *lacking], params)
    inside = np.concatenate([split.kept(*some, schema) for some in typed_batches(schema)])
    inside &= split.assign(schema, params.split) == list(split.SPLITS).index("test")
    test = tables.read_table(TEST)
    if len(rows) != len(inside) or not rows[inside][keys].reset_index(drop=True).equals(test[keys]):
        raise Failure(f"the source has other rows than {TEST}: run `uv run dvc repro -f ingest`")
    chosen = tables.sample_mask(len(test), params.gates.max_rows)
    return window.assign(**{name: rows.loc[inside, name][chosen].array for name in lacking})


def read_again(schema: Schema, names: list[str], params: Params) -> pd.DataFrame:
    """Return these columns from the source: the rows of RAW."""
    columns = {name: schema.columns[name] for name in names}
    try:
        return pa.concat_tables(needed(schema, params.ingest, columns)).to_pandas()
    except Misfit as misfit:
        name = min(misfit.names)
        needs = f"the champion predicts from {name!r}, of type {columns[name].type}"
        what = "which the source lacks, or holds in another type: put it back"
        raise Failure(f"{needs}, {what} until it is not compared") from None
