"""Cross-validation on the training window, and `train.model: auto`, which compares by it."""

import warnings

import numpy as np
import pandas as pd
from pydantic import BaseModel
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import COMPARISON, TRAIN
from mlops_loop.base.params import AUTO, TrainParams
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Numbers, Scored
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.skops_model import scores
from mlops_loop.training.fit import fit

FOLDS = 4
ROWS = 20_000  # compared on, at most: enough to tell candidates apart in seconds
Fold = tuple[Numbers, Numbers]  # places of rows to learn from, and to judge by


def folds(table: pd.DataFrame, schema: Schema, seed: int) -> list[Fold]:
    """Return the folds; with a time, all rows to judge by are later than those to learn from."""
    target = table[schema.target].to_numpy()
    order = np.arange(len(table))
    splitter = StratifiedKFold if schema.classes else KFold
    kind = splitter(FOLDS, shuffle=True, random_state=seed)
    if schema.timestamp:
        when = table[schema.timestamp].to_numpy()
        order = np.argsort(when, kind="stable")
        kind = TimeSeriesSplit(FOLDS)
    found = []
    why = "no fold has every class, or an earlier time"
    try:
        for train, held in kind.split(order, target):
            learned = order[train]
            judged = order[held]
            if schema.timestamp:
                learned = learned[when[learned] < when[judged].min()]
            if len(learned) and set(schema.classes) <= set(target[learned]):
                found.append((learned, judged))
    except ValueError as error:
        why = str(error)
    if not found:
        raise Failure(f"{TRAIN} has too few rows to cross-validate: {why}")
    return found


def loss(table: pd.DataFrame, parts: list[Fold], schema: Schema, params: TrainParams) -> float:
    """Return the task's loss, on average over the folds."""
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not converge has its loss
        for train, held in parts:
            rows = table.iloc[held]
            truth = tasks.of(schema).truth(rows, schema)
            scored = scores(fit(table.iloc[train], schema, params), rows, schema)
            losses.append(tasks.loss(Scored(truth, scored, OperatingPoint(), schema)))
    return float(np.mean(losses))


class Comparison(BaseModel, frozen=True):
    """What reports/comparison.json holds; without losses if nothing was compared."""

    chosen: str  # a name that model.py knows
    metric: str = ""
    rows: int = 0
    losses: dict[str, float] = {}  # of each candidate, the simplest first: less is better


def compare(table: pd.DataFrame, schema: Schema, params: TrainParams) -> Comparison:
    """Return how the candidates do on rows that they were not trained on; the best is chosen.

    Of equally good ones it is the simpler. With too few rows to compare it is the simplest that
    learns anything. A model that params.yaml names is chosen as it is.
    """
    if params.model != AUTO:
        return Comparison(chosen=params.model)
    names = project.required("candidates")(schema)
    sample = table.loc[tables.sample_mask(len(table), ROWS, params.seed)]
    try:
        parts = folds(sample, schema, params.seed)
    except Failure:
        return Comparison(chosen=names[min(1, len(names) - 1)])
    losses = {}
    with threadpool_limits(1):  # on few rows threads cost more than they gain
        for name in names:
            value = loss(sample, parts, schema, params.model_copy(update={"model": name}))
            losses[name] = float(f"{value:.6g}")  # the last digits may differ between machines
    best = min(losses, key=losses.__getitem__)
    metric = tasks.of(schema).OBJECTIVE
    return Comparison(chosen=best, metric=metric, rows=len(sample), losses=losses)


def load_comparison() -> Comparison:
    return Comparison.model_validate(files.read_json(COMPARISON))
