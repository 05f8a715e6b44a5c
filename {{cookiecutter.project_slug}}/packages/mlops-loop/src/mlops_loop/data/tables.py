"""Tables in Parquet files, as pandas has them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Value

JSON: dict[str, Callable[[str], Value]] = {  # how a value of a table becomes one of JSON
    "number": float,
    "integer": int,
    "boolean": bool,
    "category": str,
    "timestamp": lambda time: pd.Timestamp(time).isoformat(),
}


def write_table(path: Path, table: pd.DataFrame) -> None:
    with files.writing(path) as tmp_path:
        table.to_parquet(tmp_path, index=False)


def read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise Failure(f"{path} is missing: run `uv run dvc repro`")
    return pd.read_parquet(path)


def sample_mask(total: int, rows: int, seed: int = 0) -> NDArray[np.bool_]:
    """Return which of `total` rows are in a sample of at most `rows`: booleans, shape (total,)."""
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).choice(total, min(rows, total), replace=False)] = True
    return chosen


def read_sample(path: Path, rows: int, seed: int = 0) -> pd.DataFrame:
    """Return the rows of a Parquet file in order; `rows` random ones of them, if it has more."""
    if not path.is_file() or (total := pq.read_metadata(path).num_rows) <= rows:
        return read_table(path)
    places = np.flatnonzero(sample_mask(total, rows, seed))
    return pyarrow.dataset.dataset(path).take(pa.array(places)).to_pandas()


def as_json(table: pd.DataFrame, schema: Schema) -> list[dict[str, Value]]:
    """Return the rows as the API takes them, with null for missing values."""
    typed = {
        name: [None if pd.isna(value) else JSON[column.type](value) for value in table[name]]
        for name, column in schema.inputs.items()
    }
    return [dict(zip(typed, row, strict=True)) for row in zip(*typed.values(), strict=True)]
