"""Leakage: whether the test window is an honest one."""

from math import lgamma, log
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.files import TEST, TRAIN
from mlops_loop.base.params import LeakageGate
from mlops_loop.contract.schema import Schema
from mlops_loop.data import data_checks, tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.candidate import Candidate

CHANCE = 1e-3  # that one of the features orders the target by luck
PERFECT = 1e-6  # from the best value that the deciding metric can have


def leakage(candidate: Candidate, limits: LeakageGate) -> list[GateResult]:
    """Judge, on the training and test files themselves, whether the test is an honest one.

    Training must end before the test window begins, few test rows may also be training rows (in
    their features and target), and no feature alone may tell the target.
    """
    schema = candidate.schema
    return [*overlap_in_time(schema), overlap_of_rows(schema, limits), *telling_features(schema)]


def overlap_in_time(schema: Schema) -> list[GateResult]:
    if not schema.timestamp:
        return []
    times = [
        pq.read_table(path, columns=[schema.timestamp])[schema.timestamp] for path in (TRAIN, TEST)
    ]
    last = pc.max(times[0]).as_py()
    first = pc.min(times[1]).as_py()
    measure = f"seconds from the last training row, {last}, to the first test row, {first}"
    return [compare("leakage: time", measure, (first - last).total_seconds(), ">", 0)]


def overlap_of_rows(schema: Schema, limits: LeakageGate) -> GateResult:
    names = [*schema.features, schema.target]
    trained, tested = (row_hashes(path, names) for path in (TRAIN, TEST))
    share = float(np.isin(tested, trained).mean())
    limit = max(limits.max_overlap, schema.max_overlap)
    return compare(
        "leakage: rows", "share of the test rows that are in training", share, "<=", limit
    )


def row_hashes(path: Path, names: list[str]) -> NDArray[np.uint64]:
    parts = pq.ParquetFile(path).iter_batches(files.BATCH, columns=names)
    return np.concatenate([data_checks.hashes(pa.table(part), names) for part in parts])


def telling_features(schema: Schema) -> list[GateResult]:
    """Judge the features that tell the target, or else the one that tells most."""
    table = pd.concat([tables.read_sample(path, data_checks.LEAK_ROWS) for path in (TRAIN, TEST)])
    found = data_checks.leaks(table, schema.features, schema.target, schema.task == "regression")
    measure = f"how well it tells {schema.target}"
    lines = [
        compare(f"leakage: {name}", measure, score, "<", schema.max_leakage)
        for name, score in found.items()
    ]
    told = [line for line in lines if not line.passed]
    measure = f"how well it alone orders {schema.target}: ROC AUC, or rank correlation"
    ordered = [
        compare(f"leakage: {name}", measure, 1, "<", 1)
        for name in schema.numeric
        if name not in found or found[name] < schema.max_leakage
        if orders(table[name], table[schema.target], len(schema.features))
    ]
    return [*told, *ordered] or sorted(lines, key=lambda line: -(line.value or 0))[:1]


def orders(values: pd.Series, target: pd.Series, features: int) -> bool:
    """Return whether sorting by a feature sorts the target, too: a ROC AUC of 1, or of 0.

    Not where rows are so few that, in one of 1,000 tables or more, one of the features would do so
    by chance.
    """
    known = pd.DataFrame({"value": values.astype(float), "target": target}).dropna()
    groups = known.groupby("target")["value"]
    ends = pd.DataFrame({"low": groups.min(), "high": groups.max()}).sort_values("low")
    if len(ends) < 2 or not (ends["low"].to_numpy()[1:] > ends["high"].to_numpy()[:-1]).all():
        return False
    numbers = pd.api.types.is_numeric_dtype(target)
    if numbers and not (ends.index.is_monotonic_increasing or ends.index.is_monotonic_decreasing):
        return False
    counts = groups.size()
    log_orders = log(2) if numbers else lgamma(len(counts) + 1)
    log_chance = log_orders + sum(lgamma(count + 1) for count in counts) - lgamma(len(known) + 1)
    return log_chance + log(features) < log(CHANCE)


def perfect_model(candidate: Candidate) -> list[GateResult]:
    """Ask about a first model that makes no mistake: it often knows what nobody knows in time."""
    name, more_is_better = tasks.deciding_metric(candidate.schema)
    best = 1.0 if more_is_better else 0.0
    if candidate.champion or abs(candidate.metrics[name] - best) > PERFECT:
        return []
    value = candidate.metrics[name]
    question = f"{name} {value:.6g}, no mistake at all: is a feature known only after the target?"
    return [GateResult("leakage: perfect", question)]
