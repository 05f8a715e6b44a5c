"""Checks that need the whole table: repeated rows, leakage of the target, shifted distributions."""

from collections.abc import Iterable
from itertools import pairwise
from math import factorial, lgamma, log

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlops_loop.contract.schema import LARGEST
from mlops_loop.data import engine

SEED = 0
LEAK_ROWS = 20_000  # half to learn from, half to measure on
UNLIKELY = 1e4  # one chance in so many is none
FEWEST = 100  # with fewer rows, a good feature would look like a leak by chance
KEPT = 1_000  # categories in a profile; the others are counted together
Hashes = NDArray[np.uint64]  # of rows, shape (rows,)


class Distribution(BaseModel, frozen=True):
    """How a column is distributed: the share of each bin, by its own deciles or by category.

    accepted.json holds it. The last two shares are those of other values and of missing ones.
    """

    type: str
    rows: int
    edges: list[float] | None = None
    categories: list[str] | None = None
    shares: list[float] = []


def hashes(table: pa.Table, names: Iterable[str]) -> Hashes:
    """Return a number for each row, shape (rows,) uint64: equal rows have equal ones, nulls
    included.
    """
    places = [f"c{table.column_names.index(name)}" for name in names]
    found = engine.run(table, f"SELECT hash({', '.join(places)}) AS h FROM rows")
    return np.asarray(found["h"].to_numpy(), dtype=np.uint64)


def repeated(rows: Hashes) -> NDArray[np.bool_]:
    """Return which of the hashes occurred further up, shape (rows,) bool."""
    found: NDArray[np.bool_] = pd.Series(rows).duplicated().to_numpy()
    return found


def leaks(
    table: pd.DataFrame, features: Iterable[str], target: str, regression: bool
) -> dict[str, float]:
    """Return how well each feature alone tells the target, from 0 (not at all) to 1 (exactly).

    That is R2 for a regression, or else the balanced accuracy, corrected for chance, of a tree on
    rows that it did not learn from. With fewer than FEWEST rows only what is the same as the target
    is told from the rest.
    """
    table = table[table[target].notna()]
    table = table.sample(min(len(table), LEAK_ROWS), random_state=SEED)
    if table[target].nunique() < 2:
        return {}
    truth = table[target].to_numpy("float64" if regression else object)
    truth = np.clip(truth, -LARGEST, LARGEST) if regression else truth
    score = r_squared if regression else balanced_accuracy
    if len(table) < FEWEST:
        score = same_number if regression else same_class
    found = {}
    for name in [name for name in features if name in table]:
        inputs = codes(table[name])
        ordered = pd.api.types.is_numeric_dtype(table[name]) and orders(inputs, truth, regression)
        found[name] = 1.0 if ordered else max(0.0, score(inputs, truth))
    return found


def orders(
    inputs: NDArray[np.float64], truth: NDArray[np.object_ | np.float64], regression: bool
) -> bool:
    """Return whether a number orders the target perfectly, and hardly by chance.

    Then each class has a range of its own, or the target only rises, or falls, with the number. A
    tree that learns from half of a small table may miss the border.
    """
    order = np.lexsort((inputs[:, 0], inputs[:, 1]))
    numbers = inputs[order, 0]
    places = truth[order] if regression else pd.factorize(truth[order])[0]
    counts = np.unique(places, return_counts=True)[1]
    # How many orders of the target there are, as a logarithm: each as likely by chance.
    orders_of_all = lgamma(len(places) + 1) - sum(lgamma(count + 1) for count in counts)
    if orders_of_all < log(UNLIKELY * (2 if regression else factorial(min(len(counts), 20)))):
        return False
    if regression:
        tied = pd.Series(places).groupby(numbers).nunique()
        return bool(tied.max() == 1) and (is_sorted(places) or is_sorted(-places))
    borders = np.diff(places) != 0
    return int(borders.sum()) == len(counts) - 1 and bool(
        (np.diff(inputs[order], axis=0)[borders] != 0).any(axis=1).all()
    )


def is_sorted(values: NDArray[np.object_ | np.float64]) -> bool:
    return bool((np.diff(values.astype(np.float64)) >= 0).all())


def codes(values: pd.Series) -> NDArray[np.float64]:
    """Return numbers as they are and categories by frequency, beside whether there is a value:
    (rows, 2).
    """
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy("float64", na_value=np.nan)
    else:
        places = {category: place for place, category in enumerate(frequent(values))}
        numbers = (
            values.astype(str)
            .map(places)
            .where(values.notna())
            .to_numpy("float64", na_value=np.nan)
        )
    return np.column_stack([np.clip(np.nan_to_num(numbers), -LARGEST, LARGEST), np.isnan(numbers)])


def balanced_accuracy(inputs: NDArray[np.float64], truth: NDArray[np.object_]) -> float:
    half = len(truth) // 2
    leaf = max(1, len(truth) // 4000)
    tree = DecisionTreeClassifier(min_samples_leaf=leaf, class_weight="balanced", random_state=SEED)
    right = tree.fit(inputs[:half], truth[:half]).predict(inputs[half:]) == truth[half:]
    recalls = pd.Series(right).groupby(pd.Series(truth[half:])).mean()
    chance = 1 / len(recalls)
    return float((recalls.mean() - chance) / (1 - chance)) if chance < 1 else 0.0


def same_class(inputs: NDArray[np.float64], truth: NDArray[np.object_]) -> float:
    """Return 1 if values and classes are the same but for their names, else 0."""
    seen = pd.crosstab(inputs[:, 0], truth) > 0
    return float((seen.sum(axis=0) == 1).all() and (seen.sum(axis=1) == 1).all())


def same_number(inputs: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return 1 if the values lie on a straight line with the target, else 0."""
    return float(np.ptp(inputs[:, 0]) > 0 and abs(np.corrcoef(inputs[:, 0], truth)[0, 1]) > 0.99999)


def r_squared(inputs: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return R2 of a tree, or of a straight line, which tells the outermost values better."""
    half = len(truth) // 2
    leaf = max(1, len(truth) // 4000)
    tree = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=SEED).fit(
        inputs[:half], truth[:half]
    )
    measured = truth[half:]
    if not measured.std():
        return 0.0
    error = ((measured - tree.predict(inputs[half:])) ** 2).mean()
    numbers = inputs[half:, 0]
    line = np.corrcoef(numbers, measured)[0, 1] ** 2 if numbers.std() else 0.0
    return float(max(1 - error / measured.var(), line))


def column_distribution(values: pd.Series, kind: str) -> Distribution:
    """Return how a column of a type of the contract is distributed, for `shift`."""
    if kind in ("number", "integer"):
        found = values[np.isfinite(values.to_numpy("float64", na_value=np.nan))].to_numpy("float64")
        deciles = (
            np.quantile(found, np.arange(1, 10) / 10, method="inverted_cdf") if len(found) else []
        )
        bins = Distribution(type=kind, rows=len(values), edges=np.unique(deciles).tolist())
    else:
        bins = Distribution(type=kind, rows=len(values), categories=frequent(values)[:KEPT])
    return bins.model_copy(update={"shares": np.round(shares(values, bins), 6).tolist()})


def frequent(values: pd.Series) -> list[str]:
    """Return the values as text, the most frequent first, of equally frequent ones in their
    order.
    """
    counts = values.dropna().astype(str).value_counts().sort_index()
    return list(counts.sort_values(ascending=False, kind="stable").index)


def shares(values: pd.Series, bins: Distribution) -> NDArray[np.float64]:
    """Return the shares of the values in each bin of a profile; the last two: in no other, and
    missing.

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
        known = dict(zip(categories, range(other), strict=True))
        places = values.astype(str).map(known).fillna(other).to_numpy("int64")
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
    """Return how far the values are from a profile: distance, share that moved, and where it moved
    most.

    The distance is Jensen-Shannon's, base 2: 0 if they are alike, 1 if they have nothing in common.
    """
    before = np.array(accepted.shares)
    now = shares(values, accepted)
    both = (before + now) / 2
    some = both > 0
    parts = [
        share[some] @ np.log2(np.where(share > 0, share, both)[some] / both[some])
        for share in (before, now)
    ]
    # Two samples of the same kind are about this far apart; it matters where rows are few.
    chance = (np.count_nonzero(both) - 1) / (8 * np.log(2))
    chance *= 1 / max(1, accepted.rows) + 1 / max(1, len(values))
    most = np.argsort(-np.abs(now - before), kind="stable")[:3]
    named = labels(accepted)
    examples = [
        f"{named[place]}: {before[place]:.1%} before, {now[place]:.1%} now" for place in most
    ]
    return (
        float(np.sqrt(max(0.0, sum(parts) / 2 - chance))),
        float(np.abs(now - before).sum() / 2),
        examples,
    )
