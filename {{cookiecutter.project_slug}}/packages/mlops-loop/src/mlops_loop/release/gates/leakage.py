"""Leakage: whether the test window is an honest one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.files import TEST, TRAIN
from mlops_loop.base.params.gates import LeakageGate
from mlops_loop.contract.schema import Schema
from mlops_loop.data import data_checks, tables
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.candidate import Candidate


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
    lines = [
        compare(
            f"leakage: {name}", f"how well it tells {schema.target}", score, "<", schema.max_leakage
        )
        for name, score in found.items()
    ]
    return [line for line in lines if not line.passed] or sorted(
        lines, key=lambda line: -(line.value or 0)
    )[:1]
