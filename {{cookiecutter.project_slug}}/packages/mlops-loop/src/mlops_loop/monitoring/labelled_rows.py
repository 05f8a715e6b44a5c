"""Labelled rows: logged predictions whose ground truth is known, as the tasks take them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import FEWEST_DAYS
from mlops_loop.metrics.values import Scores, Truth

REQUEST_DIGITS = 28  # of a prediction's id, that name its request


@dataclass(frozen=True)
class LabelledRows:
    """`rows` are those whose outcome can be a truth; `truth` and `scores` are as the task's."""

    rows: pd.DataFrame
    truth: Truth
    scores: Scores

    @classmethod
    def of(cls, rows: pd.DataFrame, schema: Schema) -> Self:
        usable = usable_rows(rows, schema)
        named = usable[["value"]].rename(columns={"value": schema.target})
        truth = tasks.of(schema).truth(named, schema)
        return cls(usable, truth, logged_scores(usable["output"], schema))


def usable_rows(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows whose outcome can be a truth: one of the classes, or a number."""
    if schema.classes:
        rows = rows.assign(value=rows["value"].map(str))
        return rows[rows["value"].isin(schema.classes)]
    rows = rows.assign(value=pd.to_numeric(rows["value"], errors="coerce").astype(float))
    return rows[np.isfinite(rows["value"])]


def logged_scores(outputs: pd.Series, schema: Schema) -> Scores:
    """Return logged outputs as the model's scores, shape (rows, classes) or (rows, 1)."""
    if schema.classes:
        rows = [[output["probabilities"][name] for name in schema.classes] for output in outputs]
    else:
        rows = [[output["value"]] for output in outputs]
    return np.array(rows, dtype=float)


def resampling_groups(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return a code for the group that each row is resampled with: its day.

    With few days it is the row's request.
    """
    codes, days = pd.factorize(pd.to_datetime(rows["time"]).dt.floor("D"))
    if len(days) < FEWEST_DAYS:
        codes, _ = pd.factorize(rows["answered"].str[:REQUEST_DIGITS])
    return np.asarray(codes)
