"""Explain: which features the model uses, and how its predictions go with them."""

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
from mlops_loop.metrics.values import Floats, Truth
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.skops_model import inputs, predict

ROWS = 3000  # of the test window, at most
CELLS = 10**9  # to predict from, at most: what takes seconds
REPEATS = 5  # shuffles of a feature
SHOWN = 6  # features in the plot of dependence
POINTS = 20  # values of a number in it, at most
CATEGORIES = 12


def importance(
    model: Pipeline,
    table: pd.DataFrame,
    truth: Truth,
    operating_point: OperatingPoint,
    schema: Schema,
) -> pd.DataFrame:
    """Return by how much the deciding metric gets worse when a feature is shuffled.

    Columns: feature, importance (mean of the shuffles, in the deciding metric's units) and spread
    (their standard deviation); the largest first. Features that tell the same share their
    importance.
    """
    task = tasks.of(schema)
    metric, more_is_better = tasks.deciding_metric(schema)
    rows = max(200, min(ROWS, CELLS // (REPEATS * len(schema.features) ** 2)))
    chosen = tables.sample_mask(len(table), rows)

    def quality(model: Pipeline, rows: pd.DataFrame, known: Truth) -> float:
        found = task.weighted_metrics(known, predict(model, rows, schema), operating_point, schema)
        value = found(np.ones(len(known)))[metric]
        return value if more_is_better else -value

    found = permutation_importance(
        model,
        inputs(table[chosen], schema),
        truth[chosen],
        scoring=quality,
        n_repeats=REPEATS,
        random_state=0,
    )
    measured = {
        "feature": list(schema.features),
        "importance": found.importances_mean,
        "spread": found.importances_std,
    }
    ranked = pd.DataFrame(measured).sort_values("importance", ascending=False, kind="stable")
    return rounded(ranked.reset_index(drop=True))


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
    model: Pipeline,
    table: pd.DataFrame,
    features: list[str],
    schema: Schema,
    rows: int = 500,
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
        if not len(values):
            continue  # there is none at all in this window
        given = np.array(values, dtype=sample[name].dtype)
        means = partial_dependence(
            model, sample, [name], custom_values={name: given}, method="brute"
        )["average"]
        for of, mean in by_class(means, schema).items():
            part = {"feature": name, "value": values, "class": of, "prediction": mean}
            found.append(pd.DataFrame(part).astype({"value": object}))
    result = rounded(pd.concat(found[1:] or found, ignore_index=True))
    return curves(result, schema), result if schema.classes else result.drop(columns="class")


def by_class(means: Floats, schema: Schema) -> dict[str, Floats]:
    """Return what scikit-learn averages, by class; of a binary task it is the second one's."""
    if not schema.positive:
        return dict(zip(schema.classes or [schema.target], means, strict=True))
    second = schema.positive == schema.classes[1]
    return {schema.positive: means[0] if second else 1 - means[0]}


def grid(values: pd.Series, column: Column) -> list[Value]:
    """Return the values of a feature to look at: the most frequent categories, or quantiles."""
    present = values.dropna()
    if column.type in ("category", "boolean"):
        order = {name: place for place, name in enumerate(column.categories or ())}
        frequent = present.value_counts().head(CATEGORIES).index
        return sorted(frequent, key=lambda name: (order.get(name, len(order)), str(name)))
    places = np.linspace(0.01, 0.99, POINTS)
    return list(present.astype(float).quantile(places, interpolation="nearest").unique())


def curves(found: pd.DataFrame, schema: Schema) -> Figure:
    """Return the figure of a dependence table: lines for numbers, points for categories."""
    names = list(found["feature"].unique())
    columns = min(3, max(1, len(names)))
    height = -(-len(names) // columns) or 1
    figure = Figure(figsize=(4 * columns, 3 * height), layout="tight")
    axes = figure.subplots(height, columns, sharey=True, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.remove()
    for axis, name in zip(axes, names, strict=False):
        column = schema.features[name]
        part = found[found["feature"] == name]
        discrete = column.type in ("category", "boolean")
        for of, curve in part.groupby("class"):
            values = (
                curve["value"].map(lambda value: label(str(value))) if discrete else curve["value"]
            )
            style = {"marker": "o", "linestyle": "" if discrete else "-", "markersize": 4}
            axis.plot(list(values), list(curve["prediction"]), label=label(str(of)), **style)
        axis.set_xlabel(label(f"{name}, {column.unit}" if column.unit else name))
        if discrete:
            axis.tick_params("x", rotation=90 if len(part) > 4 else 0)
    for axis in axes[: len(names) : columns]:
        axis.set_ylabel(label(mean_of(schema)))
    if len(names) and found["class"].nunique() > 1:
        axes[0].legend(fontsize="small")
    return figure


def mean_of(schema: Schema) -> str:
    """Return what the curves are the mean of."""
    if schema.positive:
        return f"mean P({schema.positive})"
    return "mean probability" if schema.classes else f"mean {schema.target}"


def label(text: str) -> str:
    """Return a text as matplotlib shall show it: in short lines, and a $ is no formula."""
    return "\n".join(wrap(text, 36, max_lines=2, placeholder=" …")).replace("$", r"\$")


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return numbers in six digits: the last ones may differ from machine to machine."""
    numbers = table.select_dtypes("number").columns
    return table.assign(
        **{name: table[name].map(lambda value: float(f"{value:.6g}")) for name in numbers}
    )
