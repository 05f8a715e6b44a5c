"""Explain: which features the model uses, and how its predictions go with them."""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.pipeline import Pipeline

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scores, Truth
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.skops_model import scores

ROWS = 3000  # of the test window, at most
CELLS = 10**9  # to predict from, at most: what takes seconds
SHOWN = 6  # features in the plot of dependence
POINTS = 20  # values of a number in it, at most
CATEGORIES = 12


def importance(
    model: Pipeline,
    table: pd.DataFrame,
    truth: Truth,
    operating_point: OperatingPoint,
    schema: Schema,
    repeats: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Return by how much the deciding metric gets worse when a feature is shuffled.

    Columns: feature, importance (mean of `repeats` shuffles, in the deciding metric's units) and
    spread (their standard deviation); the largest first. Features that tell the same share their
    importance. Source: Fisher, Rudin and Dominici, All Models are Wrong, but Many are Useful, 2019.
    """
    task = tasks.of(schema)
    metric, more_is_better = tasks.deciding_metric(schema)
    generator = np.random.default_rng(seed)
    rows = max(200, min(ROWS, CELLS // (repeats * len(schema.features) ** 2)))
    chosen = np.sort(generator.choice(len(table), min(rows, len(table)), replace=False))
    known = truth[chosen]
    sample = table.iloc[chosen][list(schema.features)].reset_index(drop=True)

    def quality(scored: Scores) -> float:
        weighted = task.weighted_metrics(known, scored, operating_point, schema)
        value = weighted(np.ones(len(known)))[metric]
        return value if more_is_better else -value

    whole = quality(scores(model, sample, schema))
    found = []
    repeated = pd.concat([sample] * repeats, ignore_index=True)  # predicted at once: that is faster
    for name in schema.features:
        order = np.concatenate([generator.permutation(len(sample)) for _ in range(repeats)])
        shuffled = repeated.assign(**{name: sample[name].take(order).array})
        parts = np.split(scores(model, shuffled, schema), repeats)
        losses = [whole - quality(part) for part in parts]
        found.append((name, np.mean(losses), np.std(losses, ddof=1)))
    measured = pd.DataFrame(found, columns=["feature", "importance", "spread"])
    ranked = measured.sort_values("importance", ascending=False, kind="stable", ignore_index=True)
    return rounded(ranked)


def bars(important: pd.DataFrame, schema: Schema) -> Figure:
    """Return a figure of the importance of the first twenty features."""
    metric = next(iter(tasks.of(schema).GATE_METRICS))
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
    seed: int = 0,
) -> tuple[Figure, pd.DataFrame]:
    """Return figure and table of the mean prediction when all rows get a feature's value.

    Columns: feature, value, class (of a classification) and prediction: the mean probability of the
    positive or of each class, or the mean value, in the target's unit. Numbers get their quantiles,
    categories the most frequent ones. Such rows may be unlike any real one where features go
    together. Source: Friedman, Greedy Function Approximation: A Gradient Boosting Machine, Annals
    of Statistics 2001.
    """
    sample = table.sample(min(rows, len(table)), random_state=seed)[list(schema.features)]
    wanted = [schema.positive] if schema.positive else schema.classes or [schema.target]
    found = []
    for name in features[:SHOWN]:
        values = grid(table[name], schema.features[name])
        if not len(values):
            continue  # there is none at all in this window
        every = pd.concat([sample.assign(**{name: value}) for value in values], ignore_index=True)
        means = scores(model, every, schema).reshape(len(values), len(sample), -1).mean(axis=1)
        for place, of in enumerate(schema.classes or wanted):
            if of in wanted:
                part = {
                    "feature": name,
                    "value": values,
                    "class": of,
                    "prediction": means[:, place],
                }
                found.append(pd.DataFrame(part).astype({"value": object}))
    columns = ["feature", "value", "class", "prediction"]
    result = rounded(
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
    )
    return curves(result, schema), result if schema.classes else result.drop(columns="class")


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
