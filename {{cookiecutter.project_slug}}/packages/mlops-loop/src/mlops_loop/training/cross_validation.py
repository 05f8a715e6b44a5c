"""Cross-validation on the training window: by later rows where the table has a time."""

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import TRAIN
from mlops_loop.base.params import TrainParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.scoring.skops_model import scores
from mlops_loop.training.fit import fit

FOLDS = 4
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def folds(table: pd.DataFrame, schema: Schema, seed: int) -> list[Fold]:
    """Return places of rows to learn from and to judge by; the latter are later, if there is a
    time.
    """
    target = table[schema.target]
    every = np.arange(len(table))
    try:
        if schema.timestamp:
            parts = later_rows(table[schema.timestamp].to_numpy())
        else:
            kind = StratifiedKFold if schema.classes else KFold
            parts = list(kind(FOLDS, shuffle=True, random_state=seed).split(every, target))
    except ValueError as error:
        raise Failure(f"{TRAIN} has too few rows to cross-validate: {error}") from None
    classes = set(schema.classes)
    if usable := [part for part in parts if len(part[0]) and classes <= set(target.iloc[part[0]])]:
        return usable
    why = "no fold has every class, or an earlier time"
    raise Failure(f"{TRAIN} has too few rows to cross-validate: {why}")


def later_rows(when: NDArray[np.datetime64]) -> list[Fold]:
    """Return folds whose rows to judge by all are later than those to learn from."""
    order = np.argsort(when, kind="stable")
    parts = [(order[train], order[held]) for train, held in TimeSeriesSplit(FOLDS).split(order)]
    return [(train[when[train] < when[held].min()], held) for train, held in parts]


def loss(table: pd.DataFrame, parts: list[Fold], schema: Schema, params: TrainParams) -> float:
    """Return the task's loss, on average over the folds."""
    task = tasks.of(schema)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not converge has its loss
        for train, held in parts:
            fitted = fit(table.iloc[train], schema, params)
            rows = table.iloc[held]
            losses.append(task.loss(task.truth(rows, schema), scores(fitted, rows, schema), schema))
    return float(np.mean(losses))
