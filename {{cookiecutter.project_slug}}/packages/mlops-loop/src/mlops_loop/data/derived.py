"""Derived columns of tables: what a server computes for a request, for many rows at a time."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.cast import check_table
from mlops_loop.scoring.derived import Arrays, Deriver, as_array, open_deriver

PURE_ROWS = 100  # rows on which `derive` must show that it takes each on its own
AS_STORED = {"number": "float64", "integer": "float64", "category": "str"}
ARROW = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}


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
    deriver = open_deriver(schema)
    arrays = deriver(input_columns(table, deriver.inputs)) if deriver.derived else {}
    return to_frame(deriver, arrays, table.index)


def to_frame(deriver: Deriver, arrays: Arrays, index: pd.Index) -> pd.DataFrame:
    found = pd.DataFrame(index=index)
    for name, values in arrays.items():
        stored = AS_STORED.get(deriver.derived[name].type, values.dtype)
        found[name] = pd.Series(values, index=index).astype(stored)
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
    if not deriver.derived or not good.any():
        return typed.reindex(columns=[*typed, *schema.derived]), reasons
    arrays = deriver(input_columns(typed[good], deriver.inputs))
    reasons = reasons.copy()
    places = np.flatnonzero(good)
    for row, name, reason in deriver.breaches(arrays):
        reasons.iloc[places[row]] = reasons.iloc[places[row]] or f"{name} {reason}"
    return typed.join(to_frame(deriver, arrays, typed.index[good])), reasons


def check_contract(table: pa.Table, schema: Schema) -> tuple[pa.Table, NDArray[np.object_]]:
    """Return the rows of a source with their derived columns, and what breaks each ("")."""
    typed, broken = check_table(table, schema.source)
    reasons = broken.to_numpy(zero_copy_only=False)
    if not schema.derived:
        return typed, reasons
    frame, found = checked(typed.to_pandas(), pd.Series(reasons, dtype=object), schema)
    for name, column in schema.derived.items():
        values = pa.array(frame[name], from_pandas=True).cast(ARROW.get(column.type, pa.string()))
        typed = typed.append_column(name, values)
    return typed, found.to_numpy()


def refuse_impure(table: pd.DataFrame, schema: Schema) -> None:
    """Refuse a `derive` whose values depend on other rows or chance, or differ from the table's."""
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
    stored = {name: values.to_numpy() for name, values in rows[list(deriver.derived)].items()}
    if unknown := deriver.undeclared(columns):
        what = f"{deriver.name} returns {unknown[0]!r}, which schema.yaml does not declare"
        raise Failure(f"{what} as derived")
    if name := differing(batch, deriver(columns)):
        what = f"{deriver.name} gives {name!r} differently each time"
        raise Failure(f"{what}: it must not use chance or time")
    if name := differing(batch, single):
        what = f"{deriver.name} gives {name!r} of a row by other rows"
        raise Failure(f"{what}: use the row's own values only")
    if name := differing(batch, stored):
        what = f"data/train.parquet has other values of {name!r} than {deriver.name}"
        raise Failure(f"{what}: run `uv run dvc repro`")


def differing(some: Arrays, others: Arrays) -> str:
    """Return the first column whose values are not the same on both sides, "" if there is none."""
    for name in some:
        one, other = pd.Series(some[name]), pd.Series(others[name])
        if not ((one == other) | (one.isna() & other.isna())).fillna(False).all():
            return name
    return ""
