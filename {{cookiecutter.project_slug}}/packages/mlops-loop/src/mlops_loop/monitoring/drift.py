"""Drift: how far a window's columns are from the reference, and how far that may be when nothing is wrong.

Evidently measures; the thresholds are learned. Stretches of the reference's own time, as long as the window
and of as many rows, are compared with the rest of it: that is how far apart windows are by weekday, weather
and chance. A column has drifted if it is farther. The thresholds are set for all columns together, so that no
more than the wanted share of such stretches would be called drifted.
Sources: Ramdas, Garcia Trillos and Cuturi, On Wasserstein two-sample testing, Entropy 2017; Lin, Divergence
measures based on the Shannon entropy, IEEE Transactions on Information Theory 1991; and for thresholds of
many tests at once Westfall and Young, Resampling-based multiple testing, 1993.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.monitoring_window import logged

METHODS = {"num_method": "wasserstein", "cat_method": "jensenshannon"}
SMALLEST = 0.001  # standard deviation by which Evidently divides a distance at least
MOST = 5000  # rows that are drawn of a stretch: with more, chance hardly matters
PARTS = 4  # of the reference's days; a stretch is one of them at most


@dataclass(frozen=True)
class Values:
    """A column of the reference as numbers: the place of each row's value in `known`, -1 if it is missing."""

    codes: np.ndarray  # shape (rows,)
    known: np.ndarray | None  # the values in order; None for categories

    @property
    def size(self) -> int:
        return int(self.codes.max(initial=-1)) + 1


def encode(values: pd.Series, numeric: bool) -> Values:
    if not numeric:
        return Values(pd.factorize(values)[0], None)
    numbers = values.to_numpy("float64", na_value=np.nan)
    known, codes = np.unique(numbers[np.isfinite(numbers)], return_inverse=True)
    places = np.full(len(numbers), -1)
    places[np.isfinite(numbers)] = codes
    return Values(places, known)


def distance(reference: np.ndarray, current: np.ndarray, known: np.ndarray | None) -> float:
    """Return the distance of two columns as Evidently measures it, from how often each value occurs.

    Of numbers it is Wasserstein's, in standard deviations of the reference; of categories Jensen-Shannon's.
    NaN if one of them has no value.
    """
    if not reference.sum() or not current.sum():
        return float("nan")
    first, second = reference / reference.sum(), current / current.sum()
    if known is None:
        return float(jensenshannon(first, second))
    apart = np.abs(np.cumsum(first - second))[:-1] @ np.diff(known)
    deviation = np.sqrt(first @ (known - first @ known) ** 2)
    return float(apart / max(deviation, SMALLEST))


def stretches(
    when: pd.Series | None, rows: int, days: float, draws: np.random.Generator, count: int
) -> list[tuple[int, np.ndarray]]:
    """Return random stretches of time: the number of each one's first day, and its rows.

    Without time, or of few days, each has all rows.
    """
    places = np.zeros(rows) if when is None else pd.factorize(when.dt.floor("D"), sort=True)[0]
    last = int(places.max()) + 1
    length = max(1, min(round(days), last // PARTS)) if last >= 2 * PARTS else last
    parts: dict[int, np.ndarray] = {}
    found = []
    for start in draws.integers(last - length + 1, size=count).tolist():
        if start not in parts:
            parts[start] = np.flatnonzero((places >= start) & (places < start + length))
        found.append((start, parts[start]))
    return found


def undisturbed(
    columns: dict[str, Values],
    when: pd.Series | None,
    rows: int,
    days: float,
    count: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Return distances of random stretches of the reference from its rest: a row each, columns by name.

    A column called as a feature with `nulls` has by how much the share of missing values is higher there.
    """
    draws, rows = np.random.default_rng(seed), min(rows, MOST)
    total = len(next(iter(columns.values())).codes)
    chosen = stretches(when, total, days, draws, count)
    samples = [here[draws.integers(len(here), size=rows)] for _, here in chosen]
    found: dict[str, list[float]] = {}
    for name, column in columns.items():
        everything, rests = counts(column, column.codes), dict[int, np.ndarray]()
        apart, missing = found.setdefault(name, []), found.setdefault(nulls_of(name), [])
        for (start, here), drawn in zip(chosen, samples, strict=True):
            if start not in rests:
                whole = len(here) == total
                rests[start] = everything - (0 if whole else counts(column, column.codes[here]))
            rest, current = rests[start], counts(column, column.codes[drawn])
            apart.append(distance(rest[1:], current[1:], column.known))
            missing.append(current[0] / current.sum() - rest[0] / rest.sum())
    return pd.DataFrame(found)


def counts(column: Values, codes: np.ndarray) -> np.ndarray:
    """Return how often there is no value, and how often each one: shape (1 + values,)."""
    return np.bincount(codes + 1, minlength=column.size + 1)


def nulls_of(name: str) -> str:
    return f"{name}: nulls"


def thresholds(found: pd.DataFrame, least: pd.Series, rate: float) -> pd.Series:
    """Return a threshold for each column: of all rows of `found` a share of `rate` exceeds any of them.

    Each is as improbable in its own column as the others are in theirs; none is below `least`.
    """
    improbable = found.rank(ascending=False, method="max", pct=True)
    # To the safe side where values repeat: the next rarer share, and of that the next larger value.
    share = improbable.min(axis="columns").quantile(rate, interpolation="lower")
    limits = found.quantile(1 - share, interpolation="higher")
    return limits.fillna(0).clip(lower=least)


def kinds(schema: Schema) -> dict[str, bool]:
    """Return the columns that are compared, and whether they are numbers: features, and the prediction."""
    found = {name: name in schema.numeric for name in logged(schema)}
    return found | {schema.prediction: tasks.of(schema).PREDICTION_KIND == "numerical"}


def compare(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    limits: dict[str, float],
    drift_columns: int = 1,
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return Evidently's report, and for each column its method, score, threshold and whether it drifted.

    A column without any value, here or in the reference, cannot be compared; it has drifted if it had some.
    """
    with warnings.catch_warnings(action="ignore"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numeric = kinds(schema)
        types = {name: "float64" if number else "str" for name, number in numeric.items()}
        tables = [table[list(types)].astype(types) for table in (current, reference)]
        filled = [{name for name in types if table[name].notna().any()} for table in tables]
        named = [name for name in types if name in filled[0] & filled[1]]  # Evidently would guess
        given = {name: limits[name] for name in named}
        defined = DataDefinition(
            numerical_columns=[name for name in named if numeric[name]],
            categorical_columns=[name for name in named if not numeric[name]],
        )
        share = min(1, drift_columns / len(named))  # for the headline of its report
        preset = DataDriftPreset(
            columns=named, per_column_threshold=given, drift_share=share, **METHODS
        )
        data = (Dataset.from_pandas(table[named], data_definition=defined) for table in tables)
        report = Report([preset], include_tests=True).run(*data)
    nothing = {"method": "no value at all", "score": None, "threshold": None}
    judged = {name: {**nothing, "drifted": name in filled[1]} for name in types}
    return report, judged | judge(report.dict())


def judge(snapshot: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each column how Evidently judged it: method, score, threshold and drifted."""
    # Distances drift above their threshold, p-values below it: only the test's status tells.
    tests = {test["metric_config"]["params"].get("column"): test for test in snapshot["tests"]}
    judged = {}
    for metric in snapshot["metrics"][1:]:  # the first counts the drifted columns
        name, score = metric["config"]["column"], float(metric["value"])
        drifted = str(tests[name]["status"]).endswith("FAIL")
        facts = {"method": metric["config"]["method"], "score": score}
        judged[name] = {
            **facts,
            "threshold": float(metric["config"]["threshold"]),
            "drifted": drifted,
        }
    return judged
