"""Measures of a whole table: repeated rows, features that tell the target, shifts."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import factorial, lgamma, log
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlops_loop.contract.schema import LARGEST
from mlops_loop.data import engine

SEED = 0
LEAK_ROWS = 20_000  # half to learn from, half to measure on
UNLIKELY = 1e4  # one chance in so many is none
FEWEST = 100  # with fewer rows, a good feature would look like a leak by chance
KEPT = 1_000  # categories of a column; the others are counted together

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]  # of rows, shape (rows,)


def hashes(path: Path, names: Sequence[str]) -> Hashes:
    """Return a number for each row of a Parquet file: rows equal in `names` have equal ones."""
    with engine.stored(path) as rows:
        places = ", ".join(f"c{rows.names.index(name)}" for name in names)
        answer = rows.connection.sql(f"SELECT hash({places}) AS h FROM rows").to_arrow_table()
    found: Hashes = answer["h"].to_numpy()
    return found


def leaks(
    table: pd.DataFrame, features: Iterable[str], target: str, regression: bool
) -> dict[str, float]:
    """Return how well each feature alone tells the target, from 0 (not at all) to 1 (exactly).

    That is R2 for a regression, or else the balanced accuracy, corrected for chance, of a tree on
    rows that it did not learn from. With fewer than FEWEST rows only 0 and 1 are told apart.
    """
    table = table[table[target].notna()]
    table = table.sample(min(len(table), LEAK_ROWS), random_state=SEED)
    if table[target].nunique() < 2:
        return {}
    truth = pd.factorize(table[target])[0].astype(float)  # classes by number
    if regression:
        truth = np.clip(table[target].to_numpy("float64"), -LARGEST, LARGEST)
    found = {}
    for name in [name for name in features if name in table]:
        inputs = codes(table[name])
        found[name] = float(orders(inputs, truth, regression))
        if not found[name] and len(table) >= FEWEST:
            found[name] = max(0.0, tree_score(inputs, truth, regression))
    return found


def codes(values: pd.Series) -> Floats:
    """Return numbers as they are, categories by frequency, beside whether one is missing."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy("float64", na_value=np.nan)
    else:
        texts = values.astype(str).where(values.notna())
        counts = texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        places = pd.Series(np.arange(len(counts)), counts.index)
        numbers = texts.map(places).to_numpy("float64", na_value=np.nan)
    return np.column_stack([np.clip(np.nan_to_num(numbers), -LARGEST, LARGEST), np.isnan(numbers)])


def orders(inputs: Floats, truth: Floats, regression: bool) -> bool:
    """Return whether a number orders the target perfectly, and hardly by chance.

    Then each class has a range of its own, or the target only rises, or falls, with the number. A
    tree that learns from half of a small table may miss the border.
    """
    order = np.lexsort((inputs[:, 0], inputs[:, 1]))
    numbers = inputs[order, 0]
    places = truth[order]
    counts = np.unique(places, return_counts=True)[1]
    # How many orders of the target there are, as a logarithm: each as likely by chance.
    orders_of_all = lgamma(len(places) + 1) - sum(lgamma(count + 1) for count in counts)
    if orders_of_all < log(UNLIKELY * (2 if regression else factorial(min(len(counts), 20)))):
        return False
    steps = np.diff(places)
    if regression:
        tied = pd.Series(places).groupby(numbers).nunique()
        return bool(tied.max() == 1 and ((steps >= 0).all() or (steps <= 0).all()))
    borders = steps != 0
    apart = (np.diff(inputs[order], axis=0)[borders] != 0).any(axis=1).all()
    return bool(borders.sum() == len(counts) - 1 and apart)


def tree_score(inputs: Floats, truth: Floats, regression: bool) -> float:
    """Return how well a tree that learned from one half of the rows tells the other half; or a
    straight line, which tells the outermost numbers better.
    """
    half = len(truth) // 2
    measured = truth[half:]
    if len(np.unique(measured)) < 2:
        return 0.0
    options = {"min_samples_leaf": max(1, len(truth) // 4000), "random_state": SEED}
    tree = DecisionTreeRegressor(**options)
    if not regression:
        tree = DecisionTreeClassifier(class_weight="balanced", **options)
    found = tree.fit(inputs[:half], truth[:half]).predict(inputs[half:])
    if not regression:
        return float(balanced_accuracy_score(measured, found, adjusted=True))
    numbers = inputs[half:, 0]
    line = np.corrcoef(numbers, measured)[0, 1] ** 2 if numbers.std() else 0.0
    return float(max(r2_score(measured, found), line))


class Distribution(BaseModel, frozen=True):
    """How a column is distributed: the share of each bin, by its own deciles or by category.

    accepted.json holds it. The last two shares are those of other values and of missing ones.
    """

    type: str
    rows: int
    edges: list[float] | None = None
    categories: list[str] | None = None
    shares: list[float] = []


def column_distribution(values: pd.Series, kind: str) -> Distribution:
    """Return how a column of a type of the contract is distributed."""
    if kind in ("number", "integer"):
        numbers = values.to_numpy("float64", na_value=np.nan)
        found = numbers[np.isfinite(numbers)]
        deciles = np.arange(1, 10) / 10
        edges = np.quantile(found, deciles, method="inverted_cdf") if len(found) else []
        bins = Distribution(type=kind, rows=len(values), edges=np.unique(edges).tolist())
    else:
        counts = values.dropna().astype(str).value_counts().sort_index()
        frequent = counts.sort_values(ascending=False, kind="stable").index[:KEPT]
        bins = Distribution(type=kind, rows=len(values), categories=list(frequent))
    return bins.model_copy(update={"shares": np.round(shares(values, bins), 6).tolist()})


def shares(values: pd.Series, bins: Distribution) -> NDArray[np.float64]:
    """Return the shares of the values in each bin; the last two: in no other, and missing.

    A number is on an edge or between two: so those that occur often have a bin of their own.
    """
    if bins.edges is not None:
        numbers = values.to_numpy("float64", na_value=np.nan)
        edges = np.array(bins.edges)
        places = np.searchsorted(edges, numbers, "left") + np.searchsorted(edges, numbers, "right")
        other = 2 * len(edges) + 1
    else:
        categories = bins.categories or []
        other = len(categories)
        places = pd.Index(categories).get_indexer(values.astype(str))
        places = np.where(places < 0, other, places)
    counts = np.bincount(np.where(values.isna(), other + 1, places), minlength=other + 2)
    return counts / max(1, len(values))


def labels(bins: Distribution) -> list[str]:
    """Return a text for each of the `shares`."""
    if bins.edges is None:
        return [*(bins.categories or []), "other", "missing"]
    edges = [f"{edge:g}" for edge in bins.edges]
    between = [f"between {low} and {high}" for low, high in pairwise(edges)]
    inner = [text for pair in zip(edges, [*between, ""], strict=False) for text in pair][:-1]
    ends = [f"below {edges[0]}", *inner, f"above {edges[-1]}"] if edges else ["a value"]
    return [*ends, "other", "missing"]


def shift(accepted: Distribution, values: pd.Series) -> tuple[float, float, list[str]]:
    """Return how far values are from a distribution: distance, share that moved, and where most.

    The distance is Jensen-Shannon's, base 2: 0 if they are alike, 1 if they have nothing in common.
    """
    before = np.array(accepted.shares)
    now = shares(values, accepted)
    # Two samples of the same kind are about this far apart; it matters where rows are few.
    chance = (np.count_nonzero(before + now) - 1) / (8 * np.log(2))
    chance *= 1 / max(1, accepted.rows) + 1 / max(1, len(values))
    distance = np.sqrt(max(0.0, jensenshannon(before, now, base=2) ** 2 - chance))
    most = np.argsort(-np.abs(now - before), kind="stable")[:3]
    names = labels(accepted)
    examples = [f"{names[at]}: {before[at]:.1%} before, {now[at]:.1%} now" for at in most]
    return float(distance), float(np.abs(now - before).sum() / 2), examples
