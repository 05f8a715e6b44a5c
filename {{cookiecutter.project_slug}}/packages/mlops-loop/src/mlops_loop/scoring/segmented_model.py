"""A pipeline for each category of a column, and one of all rows for the others: as one estimator.

Evaluation, explanation, skops and MLflow take it like a pipeline.
"""

import os
import pickle
from threading import Thread
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_loop.scoring.derived import Array
from mlops_loop.scoring.segments import FALLBACK, gather, places

NAME = f"{__name__}.SegmentedModel"  # as skops knows the type
# Processes: threads, which wait for each other's Python, fit 1.4 times as fast on two cores, these
# 1.7 times. Arrays go as they are: a memory map, which joblib makes of large ones, leaves a trace.
WORKERS: dict[str, int | None] = {"n_jobs": -1, "max_nbytes": None}


class SegmentedModel(BaseEstimator):  # type: ignore[misc]
    """Categories with too few rows, or without a row of some class, are left to the fallback."""

    def __init__(
        self, pipeline: Pipeline, column: str, categories: tuple[str, ...], min_rows: int = 1000
    ) -> None:
        self.pipeline = pipeline
        self.column = column
        self.categories = categories
        self.min_rows = min_rows

    def fit(self, table: pd.DataFrame, target: NDArray[np.int64 | np.float64]) -> Self:
        names = dict.fromkeys(self.categories)
        rows = places(table[self.column].to_numpy(), names)
        self.rows_ = {name: len(rows.get(name, ())) for name in names}
        self.reasons_ = self.left_to_fallback(target, rows)  # why, of each category
        own = [name for name in names if name not in self.reasons_]
        # The largest first, so that no worker is left with it at the end.
        own.sort(key=lambda name: len(rows[name]), reverse=True)
        parts = ((table.iloc[rows[name]], target[rows[name]]) for name in own)
        jobs = (delayed(fit_one)(self.pipeline, *part) for part in ((table, target), *parts))
        fitted = Parallel(**WORKERS)(jobs)
        models = [pickle.loads(each) for each in fitted]  # noqa: S301 (of our own workers)
        self.fallback_ = models[0]
        found = dict(zip(own, models[1:], strict=True))
        self.models_ = {name: found[name] for name in names if name in found}
        return self

    def left_to_fallback(
        self, target: NDArray[np.int64 | np.float64], rows: dict[str, list[int]]
    ) -> dict[str, str]:
        classes = len(np.unique(target)) if is_classifier(self.pipeline) else 0
        reasons = {}
        for name in self.categories:
            learned = target[rows.get(name, [])]
            if len(learned) < self.min_rows:
                reasons[name] = f"{len(learned):,} rows"
            elif classes and (seen := len(np.unique(learned))) < classes:
                reasons[name] = f"{seen} of {classes} classes"
        return reasons

    def predict(self, table: pd.DataFrame) -> Array:
        return self.routed("predict", table)

    def predict_proba(self, table: pd.DataFrame) -> Array:
        return self.routed("predict_proba", table)

    def routed(self, method: str, table: pd.DataFrame) -> Array:
        found = places(table[self.column].to_numpy(), self.models_) or {FALLBACK: []}
        parts = [
            (rows, getattr(self.models_.get(name, self.fallback_), method)(table.iloc[rows]))
            for name, rows in found.items()
        ]
        return gather(parts, len(table))

    def __getitem__(self, step: int | str) -> BaseEstimator:
        """Return a step of the fallback: all pipelines are made alike."""
        return self.fallback_[step]

    @property
    def classes_(self) -> Array:
        return self.fallback_.classes_  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Tags:
        return get_tags(self.pipeline)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fallback_")


def start_workers() -> Thread:
    """Start the processes that `fit` takes: they import for seconds, while this one has other work.

    Join the thread before `fit`.
    """
    jobs = (delayed(ready)() for _ in range(os.cpu_count() or 1))
    thread = Thread(target=Parallel(**WORKERS), args=(jobs,), daemon=True)
    thread.start()
    return thread


def ready() -> None:
    """To find this function, a process imports this module, and so scikit-learn."""


def fit_one(pipeline: Pipeline, table: pd.DataFrame, target: NDArray[np.int64]) -> bytes:
    """Return a fitted copy of a pipeline; pickled, so that what comes of it is the same by bytes
    whether another process, another machine or this process fitted it.
    """
    with threadpool_limits(1):  # as many workers as cores
        return pickle.dumps(clone(pipeline).fit(table, target))


def pipelines(model: Pipeline | SegmentedModel) -> list[Pipeline]:
    """Return the fitted pipelines of a model: with segments the fallback, then each segment's."""
    return [model.fallback_, *model.models_.values()] if hasattr(model, "models_") else [model]
