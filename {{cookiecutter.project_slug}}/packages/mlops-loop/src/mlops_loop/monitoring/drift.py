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
from datetime import timedelta

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Floats, Numbers
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.labelled_rows import logged_scores
from mlops_loop.monitoring.monitoring_window import logged_features
from mlops_loop.prediction_log.window_summary import ColumnDrift, Drift

WASSERSTEIN = "wasserstein"  # of numbers, normed
JENSEN_SHANNON = "jensenshannon"  # of categories
MIN_DEVIATION = 0.001  # standard deviation by which Evidently divides a distance at least
MAX_BLOCK_ROWS = 5000  # drawn of a block: with more, chance hardly matters
MIN_BLOCKS = 4  # into which the reference's days are cut at least
# What the null distribution is of, for each column.
DISTANCE = "distance"
NULLS = "nulls"


@dataclass(frozen=True)
class EncodedColumn:
    """A column as numbers: the place of each row's value in `known`, -1 if it is missing."""

    codes: Numbers  # shape (rows,)
    known: Floats | None  # the values in order; None for categories

    def counts(self, codes: Numbers) -> Numbers:
        """Return how often a value is missing, and how often each occurs: shape (1 + values,)."""
        return np.bincount(codes + 1, minlength=int(self.codes.max(initial=-1)) + 2)


def encode(values: pd.Series, numeric: bool) -> EncodedColumn:
    if not numeric:
        return EncodedColumn(pd.factorize(values)[0], None)
    numbers = values.astype("float64").replace([np.inf, -np.inf], np.nan)
    codes, known = pd.factorize(numbers, sort=True)
    return EncodedColumn(codes, known.to_numpy())


def distance(reference: Numbers, current: Numbers, known: Floats | None) -> float:
    """Return the distance of two columns, from each value's count; NaN if one has no value."""
    if not reference.sum() or not current.sum():
        return float("nan")
    first = reference / reference.sum()
    second = current / current.sum()
    if known is None:
        return float(jensenshannon(first, second))
    apart = np.abs(np.cumsum(first - second))[:-1] @ np.diff(known)
    deviation = np.sqrt(first @ (known - first @ known) ** 2)
    return float(apart / max(deviation, MIN_DEVIATION))


def time_blocks(when: pd.Series | None, rows: int, days: float) -> list[Numbers]:
    """Return the rows of each block of so many days; without time, or of few days, one of all."""
    if when is None:
        return [np.arange(rows)]
    places, found = pd.factorize(when.dt.floor("D"), sort=True)
    if len(found) < 2 * MIN_BLOCKS:
        return [np.arange(rows)]
    length = max(1, min(round(days), len(found) // MIN_BLOCKS))
    starts = range(len(found) - length + 1)
    return [np.flatnonzero((places >= first) & (places < first + length)) for first in starts]


def null_distribution(
    columns: dict[str, EncodedColumn],
    when: pd.Series | None,
    rows: int,
    days: float,
    count: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how far random blocks are from the rest, by (DISTANCE or NULLS, column)."""
    draws = np.random.default_rng(seed)
    total = len(next(iter(columns.values())).codes)
    blocks = time_blocks(when, total, days)
    chosen = draws.integers(len(blocks), size=count).tolist()
    size = min(rows, MAX_BLOCK_ROWS)
    samples = [draws.choice(blocks[number], size) for number in chosen]
    found: dict[tuple[str, str], list[float]] = {}
    for name, column in columns.items():
        everything = column.counts(column.codes)
        rests = [everything]
        if len(blocks) > 1:
            rests = [everything - column.counts(column.codes[block]) for block in blocks]
        pairs = [
            (rests[number], column.counts(column.codes[drawn]))
            for number, drawn in zip(chosen, samples, strict=True)
        ]
        found[DISTANCE, name] = [distance(rest[1:], now[1:], column.known) for rest, now in pairs]
        found[NULLS, name] = [now[0] / now.sum() - rest[0] / rest.sum() for rest, now in pairs]
    return pd.DataFrame(found)


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
    return found | {schema.prediction: schema.task != "multiclass-classification"}


def typed(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the columns that are compared, as numbers and texts."""
    numeric = numeric_columns(schema)
    types = {name: "float64" if number else "str" for name, number in numeric.items()}
    return table[list(types)].astype(types)


def compare(
    current: pd.DataFrame, reference: pd.DataFrame, schema: Schema, limits: dict[str, float]
) -> dict[str, ColumnDrift]:
    """Return how each column compares; one that lost all its values has drifted."""
    both = pd.concat([typed(reference, schema), typed(current, schema)])
    found = {}
    for name, number in numeric_columns(schema).items():
        column = encode(both[name], number)
        parts = np.split(column.codes, [len(reference)])
        before, now = (column.counts(codes)[1:] for codes in parts)
        if not before.sum() or not now.sum():
            found[name] = ColumnDrift(method="no value at all", drifted=bool(before.sum()))
            continue
        score = distance(before, now, column.known)
        found[name] = ColumnDrift(
            method=WASSERSTEIN if number else JENSEN_SHANNON,
            score=score,
            threshold=limits[name],
            drifted=score >= limits[name],
        )
    return found


def calibrated_limits(found: Evaluation) -> pd.Series | None:
    """Return how far each column may be, and by how much more of it may be missing."""
    schema = found.schema
    params = found.params.monitor
    if found.sampled < params.min_rows:
        few = f"{found.sampled:,} predictions are too few: monitor.min_rows asks for"
        rules = ("drift", "quality.nulls", "quality.unseen")
        found.not_judged |= dict.fromkeys(rules, f"{few} {params.min_rows}")
        return None
    numeric = numeric_columns(schema)
    # Of predictions on the test window: on rows that it learned from, a model is surer of itself.
    predicted = found.held_out.assign(**{schema.prediction: predictions(found)})
    parts = [(found.reference, logged_features(schema)), (predicted, [schema.prediction])]
    quiet = [
        null_distribution(
            {name: encode(table[name], numeric[name]) for name in names},
            table[schema.timestamp] if schema.timestamp else None,
            found.sampled,
            (found.window.end - found.window.start) / timedelta(days=1),
            params.resamples,
        )
        for table, names in parts
    ]
    distances = pd.concat(quiet, axis="columns")
    least = pd.Series(params.min_distance, index=distances.columns)
    least[NULLS] = params.quality.max_nulls
    return thresholds(distances, least, params.false_alarms)


def predictions(found: Evaluation) -> pd.Series:
    """Return the champion's predictions on the test window."""
    return pd.Series(tasks.of(found.schema).predictions(found.tested.scores, found.schema))


def compared_tables(found: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the window's features and the reference's, each with predictions."""
    schema = found.schema
    scores = logged_scores(found.window.answered["output"], schema)
    predicted = tasks.of(schema).predictions(scores, schema)
    sampled = np.random.default_rng(0).choice(predictions(found), len(found.reference))
    return (
        found.features.assign(**{schema.prediction: predicted}),
        found.reference.assign(**{schema.prediction: sampled}),
    )


def check(found: Evaluation) -> Drift | None:
    """Return how each column compares; each that has drifted is an alarm, if they are enough."""
    if found.limits is None:
        return None
    limits = found.limits[DISTANCE].to_dict()
    columns = compare(*compared_tables(found), found.schema, limits)
    drifted = {name: column for name, column in columns.items() if column.drifted}
    for name, column in drifted.items():
        if len(drifted) < found.params.monitor.drift_columns:
            break
        text = f"{name} has no value at all here or in the reference"
        if column.score is not None:
            unit = " standard deviations" if column.method == WASSERSTEIN else ""
            text = (
                f"column {name} moved {column.score:.2g}{unit} from the reference; "
                f"usual is at most {column.threshold:.2g}"
            )
        found.alarm("drift", column.score, column.threshold, text, name)
    return Drift(share=len(drifted) / len(columns), columns=columns)
