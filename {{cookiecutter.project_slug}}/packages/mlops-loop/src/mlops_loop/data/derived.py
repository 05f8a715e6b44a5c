"""Derived columns of tables: what a server computes for a request, for many rows at a time."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BATCH, RAW
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.cast import Reasons, check_table
from mlops_loop.scoring.derived import Array, Arrays, open_deriver

PURE_ROWS = 100  # rows on which `derive` must show that it takes each on its own
AS_STORED = {"number": "float64", "integer": "float64", "category": "str"}
ARROW = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}


def inputs(typed: pa.Table, columns: Mapping[str, Column]) -> Arrays:
    """Return columns that are in the contract's types as a scorer and `derive` take them."""
    return {name: as_array(typed[name], column.type) for name, column in columns.items()}


def as_array(values: pa.ChunkedArray, kind: str) -> Array:
    """Return numbers as float32, times in seconds and categories as text, a missing one as ""."""
    values = values.combine_chunks()
    if kind == "category":  # each distinct text becomes a Python object once, not in every row
        coded = values.dictionary_encode()
        texts = np.array([*coded.dictionary.to_pylist(), ""], dtype=object)
        places = coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
        of_rows: Array = texts[places]
        return of_rows
    if kind == "timestamp":
        return np.asarray(values.to_numpy(zero_copy_only=False), "datetime64[s]")
    found: Array = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


def derive(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the derived columns of rows that keep the contract, with its index."""
    deriver = open_deriver(schema)
    found = pd.DataFrame(index=table.index)
    if deriver.derived:
        for name, values in deriver(inputs_of(table, deriver.inputs)).items():
            found[name] = stored(values, schema.derived[name]).set_axis(table.index)
    return found


def stored(values: Array, column: Column) -> pd.Series:
    return pd.Series(values).astype(AS_STORED.get(column.type, values.dtype))


def inputs_of(table: pd.DataFrame, columns: Mapping[str, Column]) -> Arrays:
    return inputs(pa.Table.from_pandas(table[list(columns)], preserve_index=False), columns)


def with_derived(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return a table that also has those derived columns which it lacks."""
    if not (absent := [name for name in schema.derived if name not in table]):
        return table
    return table.join(derive(table, schema)[absent])


def check_contract(
    table: pa.Table, schema: Schema, columns: Mapping[str, Column] | None = None
) -> tuple[pa.Table, Reasons]:
    """Return columns (by default the source's) in their types, with those derived from them, and
    what breaks each row ("" if nothing). A row that breaks the contract has no derived values.
    """
    typed, reasons = check_table(table, schema.source if columns is None else columns)
    if not schema.derived:
        return typed, reasons
    deriver = open_deriver(schema)
    good = np.flatnonzero(reasons == "")
    places = pa.array(np.cumsum(reasons == "") - 1, mask=reasons != "")  # among the good ones
    found: Arrays = {}
    if len(good):
        found = deriver(inputs(typed.take(good), deriver.inputs))
        for row, name, reason in deriver.breaches(found):
            reasons[good[row]] = reasons[good[row]] or f"{name} {reason}"
    for name, column in schema.derived.items():
        kind = ARROW.get(column.type, pa.string())
        values = pa.array(stored(found[name], column) if found else [], from_pandas=True)
        typed = typed.append_column(name, values.cast(kind, safe=False).take(places))
    return typed, reasons


def typed_batches(schema: Schema) -> Iterator[tuple[pa.Table, Reasons]]:
    """Give the rows of data/raw.parquet, some at a time, as `check_contract` does."""
    raw = pq.ParquetFile(RAW)
    empty = [pa.RecordBatch.from_pylist([], raw.schema_arrow)]
    for batch in raw.iter_batches(BATCH) if raw.metadata.num_rows else empty:
        yield check_contract(pa.table(batch), schema)


def refuse_impure(table: pd.DataFrame, schema: Schema) -> None:
    """Refuse a `derive` whose values depend on other rows or chance, or differ from the table's."""
    deriver = open_deriver(schema)
    if not deriver.derived:
        return
    rows = table.head(PURE_ROWS)
    columns = inputs_of(rows, deriver.inputs)
    batch = deriver(columns)
    alone = [
        deriver({name: values[row : row + 1] for name, values in columns.items()})
        for row in range(len(rows))
    ]
    single = {name: np.concatenate([one[name] for one in alone]) for name in batch}
    written = {name: values.to_numpy() for name, values in rows[list(deriver.derived)].items()}
    if unknown := deriver.undeclared(columns):
        what = f"{deriver.name} returns {unknown[0]!r}, which schema.yaml does not declare"
        raise Failure(f"{what} as derived")
    for others, what in (
        (deriver(columns), "differently each time: it must not use chance or time"),
        (single, "of a row by other rows: use the row's own values only"),
    ):
        if name := differing(batch, others):
            raise Failure(f"{deriver.name} gives {name!r} {what}")
    if name := differing(batch, written):
        what = f"data/train.parquet has other values of {name!r} than {deriver.name}"
        raise Failure(f"{what}: run `uv run dvc repro`")


def differing(some: Arrays, others: Arrays) -> str:
    """Return the first column whose values are not the same on both sides, "" if there is none."""
    for name in some:
        one, other = pd.Series(some[name]), pd.Series(others[name])
        if not ((one == other) | (one.isna() & other.isna())).fillna(False).all():
            return name
    return ""
