"""Predict the rows of an Arrow table; a row that breaks the contract has a reason instead."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema
from mlops_loop.data.cast import check_table
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Arrays, Breach
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.predictions import labels
from mlops_loop.scoring.scorer import Scorer

REASON = "reason"
OTHERWISE = " of the model"  # after a name that a column of the table has


def inputs(typed: pa.Table, schema: Schema) -> Arrays:
    """Return the contract's inputs as the scorer takes them: numbers as float32, categories as
    text.

    `typed` has them in the contract's types.
    """
    found = {}
    for name, column in schema.inputs.items():
        values = typed[name].combine_chunks()
        if column.type == "timestamp":
            found[name] = values.to_numpy(zero_copy_only=False).astype("datetime64[s]")
        elif (
            column.type == "category"
        ):  # each distinct text becomes a Python object once, not in every row
            coded = values.cast(pa.string()).dictionary_encode()
            texts = np.array([*coded.dictionary.to_pylist(), ""], dtype=object)
            found[name] = texts[
                coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
            ]
        else:
            found[name] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


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
    chances = {
        f"probability of {each}": scores[:, place] for place, each in enumerate(schema.classes)
    }
    return pa.table({name: pa.array(labels(scores, schema, point)), **chances})


def predict(table: pa.Table, scorer: Scorer, bundle: Bundle) -> pa.Table:
    """Return the answer for each row, and the reason where it has none because it breaks the
    contract.
    """
    schema = bundle.schema
    absent = set(schema.inputs) - set(table.column_names)
    if needed := {name for name in absent if not schema.inputs[name].nullable}:
        raise Failure(f"the column {min(needed)!r} is missing, and schema.yaml does not let it be")
    gap = pa.nulls(len(table))
    given = pa.table({name: gap if name in absent else table[name] for name in schema.inputs})
    typed, reasons = check_table(given, schema.inputs)
    good = pc.equal(reasons, "")
    scores, breaches = score_typed(typed.filter(good), scorer, schema)
    why = reasons.to_numpy(zero_copy_only=False).copy()
    scored = np.flatnonzero(good.to_numpy(zero_copy_only=False))
    for row, name, reason in breaches:
        why[scored[row]] = why[scored[row]] or f"{name} {reason}"
    answered = answers(scores, schema, bundle.operating_point)
    if (bad := why != "").any():
        place = np.zeros(len(table), dtype=int)
        place[scored] = np.arange(len(scored))
        answered = answered.take(pa.array(place, mask=bad))
    answered = answered.append_column(REASON, pa.array(why, pa.string(), mask=~bad))
    return answered.rename_columns(free_names(answered.column_names, table.column_names))


def free_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return names for the answers that no column of the table has: `reason of the model`."""
    free = list[str]()
    for name in names:
        while name in taken or name in free:
            name += OTHERWISE
        free.append(name)
    return free


def score_typed(
    typed: pa.Table, scorer: Scorer, schema: Schema
) -> tuple[NDArray[np.float64], list[Breach]]:
    """Return the scores of rows that keep the contract, and what it forbids of what is derived from
    them.
    """
    if not len(typed):
        return np.empty((0, len(schema.classes) or 1)), []
    columns = inputs(typed, schema)
    derived = scorer.derive(columns)
    return scorer.scores(columns | derived), scorer.derive.breaches(derived)


def divide(table: pa.Table, answered: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows with their answers, and those that were rejected with the reasons."""
    reason = answered.column_names[-1]
    good = answered[reason].is_null()
    scored = table
    for name in answered.column_names[:-1]:
        scored = scored.append_column(name, answered[name])
    rejected = table.append_column(reason, answered[reason])
    if answered[reason].null_count == len(table):
        return scored, rejected.slice(0, 0)
    return scored.filter(good), rejected.filter(answered[reason].is_valid())


def flat(table: pa.Table) -> pa.Table:
    """Return the table with nested values as text: a CSV file has no others."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [
                None if value is None else str(value) for value in table.column(place).to_pylist()
            ]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table
