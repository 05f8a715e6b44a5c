"""Fairness: how the model treats the groups of the contract's `protected` columns.

The numbers are those of fairlearn's MetricFrame, and so are their intervals: it resamples rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count, mean_prediction
from sklearn.metrics import mean_absolute_error

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import binary_classification, multiclass_classification
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Scores, Truth
from mlops_loop.scoring.operating_point import OperatingPoint

RESAMPLES = 100


def selection_rate(truth: Truth, called: Truth) -> float:
    return float(np.mean(called))


def true_positive_rate(truth: Truth, called: Truth) -> float:
    """Return the share of positives that are called so; NaN, not fairlearn's 0, of none."""
    return float(np.mean(called[truth == 1])) if (truth == 1).any() else float("nan")


def false_positive_rate(truth: Truth, called: Truth) -> float:
    return true_positive_rate(1 - truth, called)


RATES = {
    "selection_rate": selection_rate,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
}
ERRORS = {"mean_prediction": mean_prediction, "mae": mean_absolute_error}


@dataclass(frozen=True)
class Judged:
    """Answers to rows, of which the protected columns tell the groups."""

    table: pd.DataFrame
    truth: Truth
    scores: Scores
    point: OperatingPoint
    schema: Schema
    minimum: int  # rows of a group that is judged


@dataclass(frozen=True)
class Difference:
    """The largest difference between groups, and the lower end of its 95 % interval."""

    value: float
    low: float


def groups(judged: Judged) -> pd.DataFrame:
    """Return how each group with enough rows fares, for each protected column.

    Columns: column, group, rows; of a classification selection_rate, true_positive_rate and
    false_positive_rate, of a multiclass one for each `class` against the others; of a regression
    mean_prediction and mae. A rate that a group has no row for is NaN. No row if nothing is
    protected.
    """
    schema = judged.schema
    several = ["class"] if schema.classes and not schema.positive else []
    columns = ["column", "group", *several, "rows", *(RATES if schema.classes else ERRORS)]
    found = [
        frame.by_group.astype(float).reset_index(names="group").assign(column=name, **facts)
        for name in schema.protected
        for facts, frame in frames(judged, name)
    ]
    if not found:
        return pd.DataFrame(columns=columns)
    return pd.concat(found, ignore_index=True).astype({"rows": int})[columns]


def differences(judged: Judged, name: str) -> dict[str, Difference]:
    """Return the largest differences between the groups of a column, of each kind.

    `selection`: of selection rates; `error`: of true or of false positive rates, or for a
    regression of mean absolute errors, as a share of that of all rows.
    """
    values, lows = [], []
    for _, frame in frames(judged, name, n_boot=RESAMPLES, ci_quantiles=[0.025], random_state=0):
        scale = 1 if judged.schema.classes else frame.overall["mae"]
        values.append(frame.difference() / scale)
        lows.append(frame.difference_ci()[0] / scale)
    value, low = (pd.DataFrame(part).max() for part in (values, lows))
    kinds = {
        "selection": ["selection_rate"],
        "error": ["true_positive_rate", "false_positive_rate"],
    }
    if not judged.schema.classes:
        kinds = {"error": ["mae"]}
    return {kind: Difference(value[of].max(), low[of].max()) for kind, of in kinds.items()}


def frames(
    judged: Judged, name: str, **bootstrap: int | list[float]
) -> Iterator[tuple[dict[str, str], MetricFrame]]:
    """Yield the groups of a column with enough rows; of a multiclass task for each class."""
    members = group_values(judged.table[name]).astype(str)
    enough = members.map(members.value_counts()).to_numpy() >= judged.minimum
    if not enough.any():
        return
    for facts, truth, answers in answered(judged):
        yield (
            facts,
            MetricFrame(
                metrics={"rows": count, **(RATES if judged.schema.classes else ERRORS)},
                y_true=truth[enough],
                y_pred=answers[enough],
                sensitive_features=members[enough].to_numpy(),
                **bootstrap,
            ),
        )


def answered(judged: Judged) -> Iterator[tuple[dict[str, str], Truth, Truth]]:
    """Yield truths and answers, shape (rows,); of a multiclass task for each class."""
    schema = judged.schema
    if not schema.classes:
        yield {}, judged.truth, judged.scores[:, 0]
    elif schema.positive:
        positive = binary_classification.predictions(judged.scores, schema)
        called = positive >= judged.point.threshold
        yield {}, judged.truth.astype(int), called.astype(int)
    else:
        predicted = multiclass_classification.predictions(judged.scores, schema)
        for code, name in enumerate(schema.classes):
            yield (
                {"class": name},
                (judged.truth == code).astype(int),
                (predicted == name).astype(int),
            )
