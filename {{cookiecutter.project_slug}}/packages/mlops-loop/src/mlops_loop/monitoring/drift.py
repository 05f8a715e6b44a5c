"""Drift: how far a window's columns are from the reference, and how far is normal variation.

Distances are measured as Evidently does; thresholds are calibrated on the reference. Blocks of its
own time, as long as the window and of as many rows, are compared with the rest of it: that is how
far apart windows are by weekday, weather and chance. A column has drifted if it is farther.
Thresholds are set for all columns together, so that no more than the wanted share of such blocks
would be called drifted.
Sources: Ramdas, Garcia Trillos and Cuturi, On Wasserstein two-sample testing, Entropy 2017; Lin,
Divergence measures based on the Shannon entropy, IEEE Transactions on Information Theory 1991; and
for thresholds of many tests at once Westfall and Young, Resampling-based multiple testing, 1993.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Floats
from mlops_loop.monitoring.monitoring_window import logged_features
from mlops_loop.prediction_log.window_summary import ColumnDrift

WASSERSTEIN = "wasserstein"  # of numbers, normed
JENSEN_SHANNON = "jensenshannon"  # of categories
MIN_DEVIATION = 0.001  # standard deviation by which Evidently divides a distance at least
MAX_BLOCK_ROWS = 5000  # drawn of a block: with more, chance hardly matters
MIN_BLOCKS = 4  # into which the reference's days are cut at least
# What the null distribution is of, for each column.
DISTANCE = "distance"
NULLS = "nulls"


Codes = NDArray[np.int64]  # places of rows or values, or counts


class EvidentlyReport(Protocol):
    """Evidently's own report, in what is used of it; only `monitor --evidently` makes one."""

    def get_html_str(self, as_iframe: bool) -> str: ...


@dataclass(frozen=True)
class EncodedColumn:
    """A column as numbers: the place of each row's value in `known`, -1 if it is missing."""

    codes: Codes  # shape (rows,)
    known: Floats | None  # the values in order; None for categories

    @property
    def size(self) -> int:
        return int(self.codes.max(initial=-1)) + 1

    def counts(self, codes: Codes) -> Codes:
        """Return how often a value is missing, and how often each occurs: shape (1 + values,)."""
        return np.bincount(codes + 1, minlength=self.size + 1)


def encode(values: pd.Series, numeric: bool) -> EncodedColumn:
    if not numeric:
        return EncodedColumn(pd.factorize(values)[0], None)
    numbers = values.to_numpy("float64", na_value=np.nan)
    known, codes = np.unique(numbers[np.isfinite(numbers)], return_inverse=True)
    places = np.full(len(numbers), -1)
    places[np.isfinite(numbers)] = codes
    return EncodedColumn(places, known)


def distance(reference: Codes, current: Codes, known: Floats | None) -> float:
    """Return the distance of two columns as Evidently measures it, from each value's count.

    Of numbers it is Wasserstein's, in standard deviations of the reference; of categories
    Jensen-Shannon's. NaN if one of them has no value.
    """
    if not reference.sum() or not current.sum():
        return float("nan")
    first = reference / reference.sum()
    second = current / current.sum()
    if known is None:
        return float(jensenshannon(first, second))
    apart = np.abs(np.cumsum(first - second))[:-1] @ np.diff(known)
    deviation = np.sqrt(first @ (known - first @ known) ** 2)
    return float(apart / max(deviation, MIN_DEVIATION))


def time_blocks(
    when: pd.Series | None, rows: int, days: float, draws: np.random.Generator, count: int
) -> list[tuple[int, Codes]]:
    """Return random blocks of time: the number of each one's first day, and its rows.

    Without time, or of few days, each has all rows.
    """
    places = np.zeros(rows) if when is None else pd.factorize(when.dt.floor("D"), sort=True)[0]
    last = int(places.max()) + 1
    length = last
    if last >= 2 * MIN_BLOCKS:
        length = max(1, min(round(days), last // MIN_BLOCKS))
    members: dict[int, Codes] = {}
    blocks = []
    for start in draws.integers(last - length + 1, size=count).tolist():
        if start not in members:
            members[start] = np.flatnonzero((places >= start) & (places < start + length))
        blocks.append((start, members[start]))
    return blocks


def null_distribution(
    columns: dict[str, EncodedColumn],
    when: pd.Series | None,
    rows: int,
    days: float,
    count: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how far random blocks of the reference are from its rest: a row each.

    Columns: (DISTANCE, name), and (NULLS, name), by how much the share of missing values is higher.
    """
    draws = np.random.default_rng(seed)
    total = len(next(iter(columns.values())).codes)
    blocks = time_blocks(when, total, days, draws, count)
    size = min(rows, MAX_BLOCK_ROWS)
    samples = [here[draws.integers(len(here), size=size)] for _, here in blocks]
    found: dict[tuple[str, str], list[float]] = {}
    for name, column in columns.items():
        distances, missing = compare_blocks(column, blocks, samples)
        found[DISTANCE, name] = distances
        found[NULLS, name] = missing
    return pd.DataFrame(found)


def compare_blocks(
    column: EncodedColumn, blocks: list[tuple[int, Codes]], samples: list[Codes]
) -> tuple[list[float], list[float]]:
    """Return each block's distance from the rest, and how much more of it is missing."""
    everything = column.counts(column.codes)
    rests: dict[int, Codes] = {}
    distances = []
    missing = []
    for (start, here), drawn in zip(blocks, samples, strict=True):
        if start not in rests:
            whole = len(here) == len(column.codes)
            rests[start] = everything - (0 if whole else column.counts(column.codes[here]))
        rest = rests[start]
        current = column.counts(column.codes[drawn])
        distances.append(distance(rest[1:], current[1:], column.known))
        missing.append(current[0] / current.sum() - rest[0] / rest.sum())
    return distances, missing


def thresholds(found: pd.DataFrame, least: pd.Series, rate: float) -> pd.Series:
    """Return a threshold for each column: a share of `rate` of all rows exceeds any of them.

    Each is as improbable in its own column as the others are in theirs; none is below `least`.
    """
    improbable = found.rank(ascending=False, method="max", pct=True)
    # To the safe side where values repeat: the next rarer share, and of that the next larger value.
    share = improbable.min(axis="columns").quantile(rate, interpolation="lower")
    limits = found.quantile(1 - share, interpolation="higher")
    return limits.fillna(0).clip(lower=least)


def numeric_columns(schema: Schema) -> dict[str, bool]:
    """Return whether each column that is compared, features and prediction, is a number."""
    found = {name: name in schema.numeric for name in logged_features(schema)}
    return found | {schema.prediction: tasks.of(schema).PREDICTION_KIND == "numerical"}


def typed(tables: list[pd.DataFrame], schema: Schema) -> list[pd.DataFrame]:
    """Return the columns that are compared, as numbers and texts."""
    numeric = numeric_columns(schema)
    types = {name: "float64" if number else "str" for name, number in numeric.items()}
    return [table[list(types)].astype(types) for table in tables]


def compare(
    current: pd.DataFrame, reference: pd.DataFrame, schema: Schema, limits: dict[str, float]
) -> dict[str, ColumnDrift]:
    """Return how each column compares.

    A column without any value, here or in the reference, cannot be compared; it has drifted if it
    had some.
    """
    before, now = typed([reference, current], schema)
    found = {}
    for name, number in numeric_columns(schema).items():
        column = encode(pd.concat([before[name], now[name]]), number)
        parts = np.split(column.codes, [len(before)])
        known, seen = (column.counts(codes)[1:] for codes in parts)
        if not known.sum() or not seen.sum():
            found[name] = ColumnDrift(method="no value at all", drifted=bool(known.sum()))
            continue
        score = distance(known, seen, column.known)
        found[name] = ColumnDrift(
            method=WASSERSTEIN if number else JENSEN_SHANNON,
            score=score,
            threshold=limits[name],
            drifted=score >= limits[name],
        )
    return found
