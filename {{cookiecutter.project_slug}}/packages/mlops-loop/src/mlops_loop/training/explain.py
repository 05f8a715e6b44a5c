"""Explain: which features the model uses, and how its predictions go with them."""

from dataclasses import replace
from functools import partial
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.pipeline import Pipeline

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Numbers, Scored
from mlops_loop.scoring.skops_model import inputs, predict

ROWS = 3000  # of the test window, at most
CELLS = 10**9  # to predict from, at most: what takes seconds
REPEATS = 5  # shuffles of a feature
SHOWN = 6  # features in the plot of dependence
POINTS = 20  # values of a number in it, at most
CATEGORIES = 12
short = partial(fill, width=36, max_lines=2, placeholder=" …")


def importance(model: Pipeline, table: pd.DataFrame, scored: Scored) -> tuple[Figure, pd.DataFrame]:
    """Return by how much the deciding metric gets worse when a feature is shuffled, most first.

    `spread` is the standard deviation of the shuffles. Features that tell the same share their
    importance. The figure shows the first twenty.
    """
    schema = scored.schema
    metric, more_is_better = tasks.deciding_metric(schema)
    rows = max(200, min(ROWS, CELLS // (REPEATS * len(schema.features) ** 2)))
    chosen = np.flatnonzero(tables.sample_mask(len(table), rows))

    def quality(model: Pipeline, rows: pd.DataFrame, places: Numbers) -> float:
        part = replace(scored.at(places), scores=predict(model, rows, schema))
        value = tasks.weighted(part)[metric]
        return value if more_is_better else -value

    shuffled = inputs(table.iloc[chosen], schema)
    found = permutation_importance(
        model, shuffled, chosen, scoring=quality, n_repeats=REPEATS, random_state=0
    )
    measured = {"importance": found.importances_mean, "spread": found.importances_std}
    ranked = pd.DataFrame({"feature": list(schema.features)} | measured)
    ranked = rounded(ranked.sort_values("importance", ascending=False, kind="stable"))
    top = ranked.head(20)[::-1]
    figure = Figure(figsize=(6.4, max(2.4, 0.28 * len(top) + 1)), layout="tight")
    axis = figure.subplots()
    axis.barh(top["feature"].map(short), top["importance"], xerr=top["spread"])
    axis.set(xlabel=f"how much worse {metric} gets when the feature is shuffled")
    return figure, ranked


def dependence(
    model: Pipeline, table: pd.DataFrame, features: list[str], schema: Schema, rows: int = 500
) -> tuple[Figure, pd.DataFrame]:
    """Return the mean prediction when all rows get a feature's value, by class.

    Such rows may be unlike any real one where features go together.
    """
    sample = inputs(table[tables.sample_mask(len(table), rows)], schema)
    of = [schema.positive] if schema.positive else schema.classes or [schema.target]
    shown = features[:SHOWN]
    height = -(-len(shown) // 3)
    figure = Figure(figsize=(12, 3 * height), layout="constrained")
    what = f"probability of {of[0]}" if schema.positive else schema.target
    figure.supylabel(short(f"mean {'probability' if len(of) > 1 else what}"))
    found = [pd.DataFrame(columns=["feature", "value", "class", "prediction"])]
    for place, name in enumerate(shown, 1):
        column = schema.features[name]
        values = grid(table[name], column)
        if not values:
            continue  # there is none at all in this window
        given = {name: np.array(values, dtype=sample[name].dtype)}
        means = partial_dependence(model, sample, [name], custom_values=given, method="brute")
        averages = means["average"]
        if schema.positive and schema.positive == schema.classes[0]:
            averages = 1 - averages  # scikit-learn gives the second of two classes alone
        for name_of, mean in zip(of, averages, strict=True):
            part = {"feature": name, "value": values, "class": name_of, "prediction": mean}
            found.append(pd.DataFrame(part).astype({"value": object}))
        axis = figure.add_subplot(height, 3, place, sharey=next(iter(figure.axes), None))
        discrete = column.type in ("category", "boolean")
        points = np.array([short(str(value)) for value in values] if discrete else values)
        lines = axis.plot(points, averages.T, "o" if discrete else "o-", markersize=4)
        axis.set_xlabel(short(f"{name}, {column.unit}" if column.unit else name))
        axis.tick_params("x", rotation=90 if discrete and len(values) > 4 else 0)
    if found[1:] and len(of) > 1:
        figure.axes[0].legend(lines, of, fontsize="small")
    result = rounded(pd.concat(found[1:] or found))
    return figure, result if schema.classes else result.drop(columns="class")


def grid(values: pd.Series, column: Column) -> list[Value]:
    """Return the values of a feature to look at: the most frequent categories, or quantiles."""
    present = values.dropna()
    if column.type in ("category", "boolean"):
        frequent = list(present.value_counts().index[:CATEGORIES])
        return sorted(frequent, key=[*(column.categories or ()), *frequent].index)
    places = np.linspace(0.01, 0.99, POINTS)
    return list(present.astype(float).quantile(places, interpolation="nearest").unique())


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return numbers in six digits: the last ones may differ from machine to machine."""
    numbers = table.select_dtypes("number").map(lambda value: float(f"{value:.6g}"))
    return table.assign(**numbers).reset_index(drop=True)
