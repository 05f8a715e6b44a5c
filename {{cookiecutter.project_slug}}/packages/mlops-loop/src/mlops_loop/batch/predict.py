"""Predict the rows of an Arrow table; a row that breaks the contract has a reason instead."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema
from mlops_loop.data.cast import check_table
from mlops_loop.data.derived import inputs
from mlops_loop.scoring.bundle import Bundle, OperatingPoint
from mlops_loop.scoring.predictions import labels
from mlops_loop.scoring.scorer import Scorer

REASON = "reason"
OTHERWISE = " of the model"  # after a name that a column of the table has


def predict(table: pa.Table, scorer: Scorer, bundle: Bundle) -> pa.Table:
    """Return the answer for each row, or the reason why it has none."""
    schema = bundle.schema
    absent = set(schema.inputs) - set(table.column_names)
    if needed := {name for name in absent if not schema.inputs[name].nullable}:
        raise Failure(f"the column {min(needed)!r} is missing, and schema.yaml does not let it be")
    gap = pa.nulls(len(table))
    given = pa.table({name: gap if name in absent else table[name] for name in schema.inputs})
    typed, why = check_table(given, schema.inputs)
    scored = np.flatnonzero(why == "")
    scores = np.empty((0, len(schema.classes) or 1))
    if len(scored):
        columns = inputs(typed if len(scored) == len(typed) else typed.take(scored), schema.inputs)
        derived = scorer.derive(columns)
        scores = scorer.scores(columns | derived)
        for row, name, reason in scorer.derive.breaches(derived):
            why[scored[row]] = why[scored[row]] or f"{name} {reason}"
    answered = answers(scores, schema, bundle.operating_point)
    if (bad := why != "").any():
        place = np.searchsorted(scored, np.arange(len(table)))
        answered = answered.take(pa.array(place, mask=bad))
    answered = answered.append_column(REASON, pa.array(why, pa.string(), mask=~bad))
    return answered.rename_columns(free_names(answered.column_names, table.column_names))


def answers(scores: NDArray[np.float64], schema: Schema, point: OperatingPoint) -> pa.Table:
    """Return for each row the label and each class's probability, or the value and its interval.

    `scores` has the shape (rows, classes), or (rows, 1) for a regression.
    """
    scores = scores.astype(np.float64)
    name = schema.prediction
    if not schema.classes:
        value = scores[:, 0]
        half = point.half_width
        return pa.table({name: value, f"{name}, low": value - half, f"{name}, high": value + half})
    chances = {f"probability of {one}": scores[:, at] for at, one in enumerate(schema.classes)}
    return pa.table({name: pa.array(labels(scores, schema, point)), **chances})


def free_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return names for the answers that no column of the table has: `reason of the model`."""
    free = list[str]()
    for name in names:
        while name in taken or name in free:
            name += OTHERWISE
        free.append(name)
    return free


def divide(table: pa.Table, answered: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows with their answers, and those that were rejected with the reasons."""
    *names, reason = answered.column_names
    scored = table
    for name in names:
        scored = scored.append_column(name, answered[name])
    rejected = table.append_column(reason, answered[reason])
    good = answered[reason].is_null()
    if answered[reason].null_count == len(table):  # nearly always: no copy is made
        return scored, rejected.slice(0, 0)
    return scored.filter(good), rejected.filter(pc.invert(good))


def flat(table: pa.Table) -> pa.Table:
    """Return the table with nested values as text: a CSV file has no others."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = table.column(place).to_pylist()
            texts = [None if value is None else str(value) for value in values]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table
