"""Leakage: whether the test window is an honest one."""

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_loop.base.files import TEST, TRAIN
from mlops_loop.base.params import LeakageGate
from mlops_loop.contract.schema import Schema
from mlops_loop.data import data_checks, tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.candidate import Candidate

PERFECT = 1e-6  # from the best value that the deciding metric can have


def leakage(candidate: Candidate, limits: LeakageGate) -> list[GateResult]:
    """Judge, on the training and test files themselves, whether the test is an honest one.

    Training must end before the test window begins, few test rows may also be training rows (in
    their features and target), and no feature alone may tell the target.
    """
    schema = candidate.schema
    found = list[GateResult]()
    if name := schema.timestamp:
        last = pc.max(pq.read_table(TRAIN, columns=[name])[name]).as_py()
        first = pc.min(pq.read_table(TEST, columns=[name])[name]).as_py()
        measure = f"seconds from the last training row, {last}, to the first test row, {first}"
        found.append(compare("leakage: time", measure, (first - last).total_seconds(), ">", 0))
    names = [*schema.features, schema.target]
    shared = np.isin(data_checks.hashes(TEST, names), data_checks.hashes(TRAIN, names)).mean()
    measure = "share of the test rows that are in training"
    limit = max(limits.max_overlap, schema.max_overlap)
    found.append(compare("leakage: rows", measure, float(shared), "<=", limit))
    return found + telling_features(schema) + perfect_model(candidate)


def telling_features(schema: Schema) -> list[GateResult]:
    """Judge the features that tell the target, or else the one that tells most."""
    table = pd.concat([tables.read_sample(path, data_checks.LEAK_ROWS) for path in (TRAIN, TEST)])
    found = data_checks.leaks(table, schema.features, schema.target, schema.task == "regression")
    measure = f"how well it tells {schema.target}"
    lines = [
        compare(f"leakage: {name}", measure, found[name], "<", schema.max_leakage)
        for name in sorted(found, key=found.__getitem__, reverse=True)
    ]
    return [line for line in lines if not line.passed] or lines[:1]


def perfect_model(candidate: Candidate) -> list[GateResult]:
    """Ask about a first model that makes no mistake: it often knows what nobody knows in time."""
    name, more_is_better = tasks.deciding_metric(candidate.schema)
    value = candidate.metrics[name]
    if candidate.champion or abs(value - float(more_is_better)) > PERFECT:
        return []
    question = f"{name} {value:.6g}, no mistake at all: is a feature known only after the target?"
    return [GateResult("leakage: perfect", question)]
