"""Cross-validation on the training window: by later rows where the table has a time."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import TRAIN
from mlops_loop.base.params.train import TrainParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Numbers, Scored
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.skops_model import scores
from mlops_loop.training.fit import fit

FOLDS = 4
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
    try:
        parts = [(order[train], order[held]) for train, held in kind.split(order, target)]
    except ValueError as error:
        raise Failure(f"{TRAIN} has too few rows to cross-validate: {error}") from None
    if schema.timestamp:
        parts = [(train[when[train] < when[held].min()], held) for train, held in parts]
    classes = set(schema.classes)
    if usable := [part for part in parts if len(part[0]) and classes <= set(target[part[0]])]:
        return usable
    why = "no fold has every class, or an earlier time"
    raise Failure(f"{TRAIN} has too few rows to cross-validate: {why}")


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
