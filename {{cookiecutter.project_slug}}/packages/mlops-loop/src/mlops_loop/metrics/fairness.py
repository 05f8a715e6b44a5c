"""Fairness: how the model treats the groups of the contract's `protected` columns."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
from fairlearn import metrics
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import binary_classification, multiclass_classification
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Metrics, Scores, Truth, Weighted, Weights
from mlops_loop.scoring.operating_point import OperatingPoint

Measure = Callable[[Truth, Truth], float]  # of truths and answers
RATES = {
    "selection_rate": partial(metrics.selection_rate, pos_label=1),
    "true_positive_rate": partial(metrics.true_positive_rate, pos_label=1),
    "false_positive_rate": partial(metrics.false_positive_rate, pos_label=1),
}
ERRORS = {"mean_prediction": metrics.mean_prediction, "mae": mean_absolute_error}


def groups(
    table: pd.DataFrame,
    truth: Truth,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    minimum: int,
) -> pd.DataFrame:
    """Return how each group of at least `minimum` rows fares, for each protected column.

    Columns: column, group, rows; of a classification selection_rate, true_positive_rate and
    false_positive_rate, of a multiclass one for each `class` against the others; of a regression
    mean_prediction and mae. A rate that a group has no row for is NaN. No row if nothing is
    protected.
    """
    found = []
    for name in schema.protected:
        members = group_values(table[name]).astype(str).to_numpy()
        for facts, actual, answered in answers(truth, scores, point, schema):
            frame = by_group(actual, answered, members, RATES if schema.classes else ERRORS)
            frame = frame[frame["rows"] >= minimum].reset_index(names="group")
            found.append(frame.assign(column=name, **facts))
    head = [
        "column",
        "group",
        *(["class"] if schema.classes and not schema.positive else []),
        "rows",
    ]
    columns = [*head, *(RATES if schema.classes else ERRORS)]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def differences(
    table: pd.DataFrame,
    name: str,
    truth: Truth,
    scores: Scores,
    point: OperatingPoint,
    schema: Schema,
    minimum: int,
) -> Weighted:
    """Return the function of row weights that gives the largest differences between groups.

    `selection`: of selection rates; `error`: of true or of false positive rates, or for a
    regression of mean absolute errors, as a share of that of all rows.
    """
    codes, _ = pd.factorize(group_values(table[name]).astype(str))
    judged = np.flatnonzero(np.bincount(codes) >= minimum)
    each = answers(truth, scores, point, schema)

    def share(part: Truth, of: Truth) -> float:
        rates = (np.bincount(codes, part * of) / np.bincount(codes, of))[judged]
        apart: float = np.fmax.reduce(rates) - np.fmin.reduce(
            rates
        )  # a group without such rows is left out
        return apart

    def weighted(weights: Weights) -> Metrics:
        if not schema.classes:
            errors = np.abs(scores[:, 0] - truth)
            return {"error": share(errors, weights) / ((errors * weights).sum() / weights.sum())}
        wrong = [
            share(said, among)
            for _, is_it, said in each
            for among in (np.where(is_it, weights, 0), np.where(is_it, 0, weights))
        ]
        return {"selection": max(share(said, weights) for _, _, said in each), "error": max(wrong)}

    return weighted


def answers(
    truth: Truth, scores: Scores, point: OperatingPoint, schema: Schema
) -> list[tuple[dict[str, str], Truth, Truth]]:
    """Return truths and answers, shape (rows,); of a multiclass task for each class."""
    if not schema.classes:
        return [({}, truth, scores[:, 0])]
    if schema.positive:
        called = binary_classification.predictions(scores, schema) >= point.threshold
        return [({}, truth.astype(int), called.astype(int))]
    predicted = multiclass_classification.predictions(scores, schema)
    names = enumerate(schema.classes)
    return [
        ({"class": name}, (truth == code).astype(int), (predicted == name).astype(int))
        for code, name in names
    ]


def by_group(
    actual: Truth, answered: Truth, members: NDArray[np.object_], measures: Mapping[str, Measure]
) -> pd.DataFrame:
    """Return the measures of each group, with its rows."""
    counts = {"rows": metrics.count, "actual": lambda truth, _: truth.sum()}
    frame = metrics.MetricFrame(
        metrics={**counts, **measures}, y_true=actual, y_pred=answered, sensitive_features=members
    )
    found: pd.DataFrame = frame.by_group.astype(float).astype({"rows": int})
    # Of a group without any positive row fairlearn says that none of them was found.
    if "true_positive_rate" in found:
        found["true_positive_rate"] = found["true_positive_rate"].where(found["actual"] > 0)
        found["false_positive_rate"] = found["false_positive_rate"].where(
            found["actual"] < found["rows"]
        )
    return found
