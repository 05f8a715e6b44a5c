"""Segments: how each category's model does on its rows, against a naive baseline of its own."""

import numpy as np
import pandas as pd

from mlops_loop.base.files import plain
from mlops_loop.contract.values import Value
from mlops_loop.metrics import tasks
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Numbers, Scored, Scores, Weighted
from mlops_loop.scoring.segmented_model import SegmentedModel


def segment_rows(table: pd.DataFrame, column: str) -> dict[str, Numbers]:
    """Return the places of each category's rows."""
    found = table.groupby(group_values(table[column])).indices
    return {str(value): rows for value, rows in found.items()}


def naive(train: pd.DataFrame, table: pd.DataFrame, column: str, scored: Scored) -> Scores:
    """Return what each row's baseline answers: that of its segment's training rows, if any."""
    learned = segment_rows(train, column)
    found = np.empty_like(scored.scores, dtype=float)
    for value, rows in segment_rows(table, column).items():
        known = train.iloc[learned[value]] if value in learned else train
        by = scored.params.baseline_by
        part = table.iloc[rows]
        found[rows] = tasks.of(scored.schema).baseline(known, part, scored.schema, by)
    return found


def gains(new: Scored, old: Scored, names: dict[str, bool]) -> Weighted:
    """Return the function of row weights that gives the gain in each metric, less or more of it."""
    measured = [tasks.of(each.schema).weighted_metrics(each) for each in (new, old)]

    def gain(weights: Numbers) -> dict[str, float]:
        after, before = (each(weights) for each in measured)
        return {
            key: (after[key] - before[key]) * (1 if more else -1) for key, more in names.items()
        }

    return gain  # type: ignore[return-value]


def report(
    model: SegmentedModel, train: pd.DataFrame, table: pd.DataFrame, test: Scored
) -> dict[str, dict[str, Value]]:
    """Return the model, rows and deciding metric of each category; a metric needs enough rows."""
    metric, _ = tasks.deciding_metric(test.schema)
    usual = Scored(test.truth, naive(train, table, model.column, test), test.point, test.schema)
    places = segment_rows(table, model.column)
    found = {}
    for name in dict.fromkeys([*model.rows_, *places]):
        rows = places.get(name, np.array([], dtype=int))
        enough = len(rows) >= test.params.min_slice_rows
        why = model.reasons_.get(name, "not in the contract")
        found[name] = {
            "model": "own" if name in model.models_ else f"fallback ({why})",
            "training_rows": model.rows_.get(name),
            "test_rows": len(rows),
            metric: tasks.weighted(test.at(rows))[metric] if enough else None,
            "baseline": tasks.weighted(usual.at(rows))[metric] if enough else None,
        }
    return plain(found)  # type: ignore[no-any-return]
