"""Checks that need the whole table, or a sample of it: repeated rows, leakage, shifts."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW
from mlops_loop.base.params import SplitParams
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data import data_checks, split
from mlops_loop.data.check import EXAMPLES, TABLE, Check, record
from mlops_loop.data.data_checks import Distribution, Hashes


def enough_rows(schema: Schema, rows: int) -> Check:
    few = max(0, schema.min_rows - rows)
    expected = {"min_rows": schema.min_rows}
    return record(TABLE, "row count to be enough", few, rows, [f"{rows:,} rows"], expected=expected)


def every_class(schema: Schema, rows: int) -> Check:
    """Return the check that every class of the target occurs."""
    found = pq.ParquetFile(RAW).read([schema.target])[schema.target].unique().to_pylist()
    names = [name for name in schema.classes if name not in found]
    return record(schema.target, "every class to occur", rows if names else 0, rows, names)


def rows_at(places: NDArray[np.int64], names: Iterable[str]) -> list[str]:
    """Return the first of the rows of data/raw.parquet at `places`, as text."""
    file = pq.ParquetFile(RAW)
    groups = range(file.num_row_groups)
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
    texts = []
    for place in places[:EXAMPLES]:
        group = int(np.searchsorted(ends, place, "right"))
        table = file.read_row_group(group)
        row = int(place - ends[group] + len(table))
        texts.append(", ".join(str(table[name][row]) for name in names))
    return texts


def repeats(schema: Schema, hashes: Mapping[str, Hashes], params: SplitParams) -> Iterator[Check]:
    """Give the checks that rows do not repeat: at all, in their key, or between windows."""
    if "all" in hashes:
        found = np.flatnonzero(data_checks.repeated(hashes["all"]))
        yield record(
            TABLE,
            "rows not to be duplicated",
            len(found),
            len(hashes["all"]),
            rows_at(found, schema.source),
            allowed=schema.max_duplicates,
        )
    if "unique" in hashes:
        found = np.flatnonzero(data_checks.repeated(hashes["unique"]))
        names = ", ".join(schema.unique)
        examples = rows_at(found, schema.unique)
        yield record(names, "columns to be unique", len(found), len(hashes["unique"]), examples)
    if "learnt" in hashes:
        yield from overlap(schema, hashes["learnt"], params)


def overlap(schema: Schema, rows: Hashes, params: SplitParams) -> Iterator[Check]:
    """Give the check that test rows are not in the training window; none if there is no split."""
    try:
        windows = split.assign(schema, params)
    except Failure:
        return  # which the stage `split` reports
    test = np.flatnonzero(windows == 2)
    found = test[np.isin(rows[test], rows[windows == 0])]
    known = [name for name in [*schema.features, schema.target] if name in schema.source]
    rule = "test rows not to be in the training window"
    examples = rows_at(found, known)
    yield record(TABLE, rule, len(found), len(test), examples, allowed=schema.max_overlap)


def leaks(schema: Schema, sample: pd.DataFrame, rows: int) -> Iterator[Check]:
    """Give the checks that no feature alone predicts the target."""
    target = schema.target
    if target not in sample:
        return
    expected = {"max_leakage": schema.max_leakage}
    scores = data_checks.leaks(sample, schema.features, target, schema.task == "regression")
    for name, score in scores.items():
        leaking = score >= schema.max_leakage
        pairs = sample[[name, target]].dropna().head(EXAMPLES if leaking else 0).to_numpy()
        examples = [f"{value} where {target} is {truth}" for value, truth in pairs]
        rule = f"column not to tell {target}"
        failed = rows if leaking else 0
        yield record(name, rule, failed, rows, examples, expected=expected, score=round(score, 4))


def shifts(
    schema: Schema, sample: pd.DataFrame, rows: int, accepted: Mapping[str, Distribution]
) -> Iterator[Check]:
    """Give the checks that each column is distributed as in the data that was accepted last.

    A column that was not there, or another one, passes. Scores are given for shifts only, so that
    the same data gives the same report, whatever was accepted before.
    """
    rule = "column to be distributed as before"
    for name, column in profiled(schema, sample).items():
        limit = column.max_shift or schema.max_shift
        expected = {"max_shift": limit}
        found = record(name, rule, 0, rows, expected=expected)
        before = accepted.get(name)
        if before and before.type == column.type:
            score, moved, examples = data_checks.shift(before, sample[name])
            if score > limit:
                failed = max(1, round(rows * moved))
                rounded = round(score, 4)
                found = record(name, rule, failed, rows, examples, expected=expected, score=rounded)
        yield found


def profiled(schema: Schema, sample: pd.DataFrame) -> dict[str, Column]:
    """Return the columns whose distribution is watched."""
    kinds = ("number", "integer", "boolean", "category")
    return {
        name: column
        for name, column in schema.used.items()
        if name in sample and column.role != "id" and column.type in kinds
    }
