"""Explain: which features the model uses, and how its predictions go with them."""

from dataclasses import replace
from textwrap import wrap

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


def importance(model: Pipeline, table: pd.DataFrame, scored: Scored) -> pd.DataFrame:
    """Return by how much the deciding metric gets worse when a feature is shuffled.

    Columns: feature, importance (mean of the shuffles, in the deciding metric's units) and spread
    (their standard deviation); the largest first. Features that tell the same share their
    importance.
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
    return rounded(ranked.sort_values("importance", ascending=False, kind="stable"))


def bars(important: pd.DataFrame, schema: Schema) -> Figure:
    """Return a figure of the importance of the first twenty features."""
    metric, _ = tasks.deciding_metric(schema)
    top = important.head(20)[::-1]
    figure = Figure(figsize=(6.4, max(2.4, 0.28 * len(top) + 1)), layout="tight")
    axis = figure.subplots()
    axis.barh([label(name) for name in top["feature"]], top["importance"], xerr=top["spread"])
    axis.set(xlabel=f"how much worse {metric} gets when the feature is shuffled")
    return figure


def dependence(
    model: Pipeline, table: pd.DataFrame, features: list[str], schema: Schema, rows: int = 500
) -> tuple[Figure, pd.DataFrame]:
    """Return figure and table of the mean prediction when all rows get a feature's value.

    Columns: feature, value, class (of a classification) and prediction: the mean probability of the
    positive or of each class, or the mean value, in the target's unit. Numbers get their quantiles,
    categories the most frequent ones. Such rows may be unlike any real one where features go
    together.
    """
    sample = inputs(table[tables.sample_mask(len(table), rows)], schema)
    found = [pd.DataFrame(columns=["feature", "value", "class", "prediction"])]
    for name in features[:SHOWN]:
        values = grid(table[name], schema.features[name])
        if not values:
            continue  # there is none at all in this window
        given = {name: np.array(values, dtype=sample[name].dtype)}
        means = partial_dependence(model, sample, [name], custom_values=given, method="brute")
        averages = means["average"]
        if schema.positive:  # scikit-learn gives the second class alone
            second = schema.positive == schema.classes[1]
            averages = [averages[0] if second else 1 - averages[0]]
        of = [schema.positive] if schema.positive else schema.classes or [schema.target]
        for name_of, mean in zip(of, averages, strict=True):
            part = {"feature": name, "value": values, "class": name_of, "prediction": mean}
            found.append(pd.DataFrame(part).astype({"value": object}))
    result = rounded(pd.concat(found[1:] or found))
    return curves(result, schema), result if schema.classes else result.drop(columns="class")


def grid(values: pd.Series, column: Column) -> list[Value]:
    """Return the values of a feature to look at: the most frequent categories, or quantiles."""
    present = values.dropna()
    if column.type in ("category", "boolean"):
        frequent = list(present.value_counts().index[:CATEGORIES])
        return sorted(frequent, key=[*(column.categories or ()), *frequent].index)
    places = np.linspace(0.01, 0.99, POINTS)
    return list(present.astype(float).quantile(places, interpolation="nearest").unique())


def curves(found: pd.DataFrame, schema: Schema) -> Figure:
    """Return the figure of a dependence table: lines for numbers, points for categories."""
    parts = dict(list(found.groupby("feature", sort=False)))
    columns = min(3, max(1, len(parts)))
    height = -(-len(parts) // columns) or 1
    figure = Figure(figsize=(4 * columns, 3 * height), layout="tight")
    axes = figure.subplots(height, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(parts) :]:
        axis.remove()
    for axis, (name, part) in zip(axes.flat, parts.items(), strict=False):
        column = schema.features[name]
        discrete = column.type in ("category", "boolean")
        for of, curve in part.groupby("class"):
            values = [label(str(value)) if discrete else value for value in curve["value"]]
            line = "o" if discrete else "o-"
            axis.plot(values, list(curve["prediction"]), line, markersize=4, label=label(str(of)))
        axis.set_xlabel(label(f"{name}, {column.unit}" if column.unit else name))
        axis.tick_params("x", rotation=90 if discrete and len(part) > 4 else 0)
    of = f"P({schema.positive})" if schema.positive else schema.target
    for axis in axes[:, 0]:
        axis.set_ylabel(label(f"mean {'probability' if len(schema.classes) > 2 else of}"))
    if found["class"].nunique() > 1:
        axes.flat[0].legend(fontsize="small")
    return figure


def label(text: str) -> str:
    """Return a text as matplotlib shall show it: in short lines, and a $ is no formula."""
    return "\n".join(wrap(text, 36, max_lines=2, placeholder=" …")).replace("$", r"\$")


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return numbers in six digits: the last ones may differ from machine to machine."""
    rounded = {
        name: table[name].map(lambda value: float(f"{value:.6g}"))
        for name in table.select_dtypes("number")
    }
    return table.assign(**rounded).reset_index(drop=True)
