"""The champion's inputs: columns that the contract has dropped and the champion needs.

The pipeline's files hold the contract's columns alone, so that they depend on nothing but data,
code and parameters. What the champion needs besides is read from the source again.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW, TEST
from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data import split, tables
from mlops_loop.data.cast import Misfit
from mlops_loop.data.ingest import selected


def with_champion_inputs(
    champion: Schema, schema: Schema, window: pd.DataFrame, params: Params
) -> pd.DataFrame:
    """Return the test window (`window`, sampled as for the gates) with all columns of the champion.

    Raises a Failure that says what to do if there is no way to compare.
    """
    if champion.classes != schema.classes:
        raise Failure(f"the champion knows other classes of {schema.target!r}: keep them")
    lacking = {
        name: column
        for name, column in champion.inputs.items()
        if name not in schema.used or schema.used[name].type != column.type
    }
    if not lacking:
        return window
    found = read_again(lacking, schema, params)
    keys = [name for name in (schema.target, schema.timestamp) if name]
    test = tables.read_table(TEST)
    if not found[keys].equals(test[keys]):
        raise Failure(f"the source has other rows than {TEST}: run `uv run dvc repro -f ingest`")
    chosen = tables.sample_mask(len(test), params.gates.max_rows)
    return window.assign(**{name: found.loc[chosen, name].array for name in lacking})


def read_again(lacking: dict[str, Column], schema: Schema, params: Params) -> pd.DataFrame:
    """Return these columns, with target and time, of the test window's rows, from the source."""
    kept = {name: column.model_copy(update={"role": "slice"}) for name, column in lacking.items()}
    wider = schema.model_copy(update={"columns": {**schema.columns, **kept}})
    keys = [name for name in (schema.target, schema.timestamp) if name]
    as_text = set[str]()
    parts = list[pa.Table]()
    try:
        for table in selected(wider, params.ingest, as_text, wider.source):
            if gone := [name for name in kept if name not in table.column_names or name in as_text]:
                needs = f"the champion predicts from {gone[0]!r}, of type {kept[gone[0]].type}"
                raise Failure(f"{needs}: put it back into the source until it is not compared")
            parts.append(table.select([*keys, *kept]))
    except Misfit:
        raise Failure("a column of the champion has values of another type in the source") from None
    rows = pa.concat_tables(parts).to_pandas()
    inside = test_rows(schema, params)
    if len(rows) != len(inside):
        raise Failure(f"the source has other rows than {RAW}: run `uv run dvc repro -f ingest`")
    return rows[inside].reset_index(drop=True)


def test_rows(schema: Schema, params: Params) -> NDArray[np.bool_]:
    """Return which rows of data/raw.parquet are in the test window: booleans, shape (rows,)."""
    batches = pq.ParquetFile(RAW).iter_batches(files.BATCH)
    kept = np.concatenate([split.kept(batch, schema)[0] for batch in batches])
    inside: NDArray[np.bool_] = kept & (
        split.assign(schema, params.split) == list(split.SPLITS).index("test")
    )
    return inside
