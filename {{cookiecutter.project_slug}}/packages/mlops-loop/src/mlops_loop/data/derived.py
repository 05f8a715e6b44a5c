"""Derived columns of tables: what a server computes for a request, for many rows at a time."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.scoring.derived import Arrays, Deriver, as_array, open_deriver

PURE_ROWS = 100  # rows on which `derive` must show that it takes each on its own
AS_STORED = {"number": "float64", "integer": "float64", "category": "str"}


def input_columns(table: pd.DataFrame, inputs: dict[str, Column]) -> Arrays:
    """Return the contract's inputs of a table as a scorer and `derive` take them."""
    return {name: as_column(table[name], column) for name, column in inputs.items()}


def as_column(values: pd.Series, column: Column) -> pd.Series:
    if column.type == "category":
        return values.astype(object).where(values.notna(), None).to_numpy()
    if column.type == "timestamp":
        return pd.to_datetime(values).to_numpy("datetime64[s]")
    return as_array(values.to_numpy("float32", na_value=np.nan), column)


def derive(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the derived columns of rows that keep the contract, with its index."""
    return to_frame(open_deriver(schema), table)


def to_frame(deriver: Deriver, table: pd.DataFrame) -> pd.DataFrame:
    arrays = deriver(input_columns(table, deriver.inputs)) if deriver.derived else {}
    found = pd.DataFrame(index=table.index)
    for name, values in arrays.items():
        stored = AS_STORED.get(deriver.derived[name].type, values.dtype)
        found[name] = pd.Series(values, index=table.index).astype(stored)
    return found


def with_derived(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return a table that also has those derived columns which it lacks."""
    if not (absent := [name for name in schema.derived if name not in table]):
        return table
    return table.join(derive(table, schema)[absent])


def checked(
    typed: pd.DataFrame, reasons: pd.Series, schema: Schema
) -> tuple[pd.DataFrame, pd.Series]:
    """Return rows that `check_rows` has seen with their derived columns, and what breaks each.

    A row that breaks the contract has no derived values.
    """
    good = (reasons == "").to_numpy()
    deriver = open_deriver(schema)
    reasons = reasons.copy()
    if not deriver.derived or not good.any():
        return typed.reindex(columns=[*typed, *schema.derived]), reasons
    arrays = deriver(input_columns(typed[good], deriver.inputs))
    places = np.flatnonzero(good)
    for row, name, reason in deriver.breaches(arrays):
        place = places[row]
        if not reasons.iloc[place]:
            reasons.iloc[place] = f"{name} {reason}"
    return typed.join(to_frame(deriver, typed[good])), reasons


def checked_table(
    typed: pa.Table, reasons: pa.Array, schema: Schema
) -> tuple[pa.Table, NDArray[np.object_]]:
    """Do what `checked` does for what `check_table` returns."""
    broken = reasons.to_numpy(zero_copy_only=False)
    if not schema.derived:
        return typed, broken
    frame, found = checked(typed.to_pandas(), pd.Series(broken, dtype=object), schema)
    for name in schema.derived:
        typed = typed.append_column(name, pa.array(frame[name], from_pandas=True))
    return typed, found.to_numpy()


def refuse_impure(table: pd.DataFrame, schema: Schema) -> None:
    """Refuse a `derive` by which a row's values depend on other rows or on chance, or differ from
    the table's.
    """
    deriver = open_deriver(schema)
    if not deriver.derived:
        return
    rows = table.head(PURE_ROWS)
    columns = input_columns(rows, deriver.inputs)
    batch = deriver(columns)
    alone = [
        deriver({name: values[row : row + 1] for name, values in columns.items()})
        for row in range(len(rows))
    ]
    single = {name: np.concatenate([one[name] for one in alone]) for name in batch}
    if unknown := deriver.undeclared(columns):
        what = f"returns {unknown[0]!r}, which schema.yaml does not declare as derived"
        raise Failure(f"{deriver.name} {what}")
    if name := differing(batch, deriver(columns)):
        raise Failure(
            f"{deriver.name} gives {name!r} differently each time: it must not use chance or time"
        )
    if name := differing(batch, single):
        raise Failure(
            f"{deriver.name} gives {name!r} of a row by other rows: use the row's own values only"
        )
    stored = {name: values.to_numpy() for name, values in rows[list(deriver.derived)].items()}
    if name := differing(batch, stored):
        raise Failure(
            f"data/train.parquet has other values of {name!r} than {deriver.name}: "
            "run `uv run dvc repro`"
        )


def differing(some: Arrays, others: Arrays) -> str:
    """Return the first column whose values are not the same on both sides, "" if there is none."""
    pairs = ((name, pd.Series(some[name]), pd.Series(others[name])) for name in some)
    return next((name for name, one, other in pairs if not same(one, other)), "")


def same(one: pd.Series, other: pd.Series) -> bool:
    equal = (one == other) | (one.isna() & other.isna())
    return bool(equal.fillna(False).all())
