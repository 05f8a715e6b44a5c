"""The champion's inputs: columns that the contract has dropped and the champion needs.

The pipeline's files hold the contract's columns alone, so that they depend on nothing but data,
code and parameters. What the champion needs besides is read from the source again.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import TEST
from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data import split, tables
from mlops_loop.data.derived import typed_batches
from mlops_loop.data.ingest import Misfit, needed


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
    rows = read_again(lacking, schema, params)
    inside = np.concatenate([split.kept(*some, schema) for some in typed_batches(schema)])
    inside &= split.assign(schema, params.split) == list(split.SPLITS).index("test")
    keys = [name for name in (schema.target, schema.timestamp) if name]
    test = tables.read_table(TEST)
    rows = rows[inside].reset_index(drop=True) if len(rows) == len(inside) else rows
    if not rows[keys].equals(test[keys]):
        raise Failure(f"the source has other rows than {TEST}: run `uv run dvc repro -f ingest`")
    chosen = tables.sample_mask(len(test), params.gates.max_rows)
    return window.assign(**{name: rows.loc[chosen, name].array for name in lacking})


def read_again(lacking: dict[str, Column], schema: Schema, params: Params) -> pd.DataFrame:
    """Return these columns, with target and time, from the source: the rows of RAW."""
    kept = {name: column.model_copy(update={"role": "slice"}) for name, column in lacking.items()}
    wider = schema.model_copy(update={"columns": {**schema.columns, **kept}})
    keys = [name for name in (schema.target, schema.timestamp) if name]
    columns = {name: wider.columns[name] for name in (*keys, *kept)}
    try:
        found = pa.concat_tables(needed(wider, params.ingest, columns))
    except Misfit as misfit:
        name = min(misfit.names)
        needs = f"the champion predicts from {name!r}, of type {columns[name].type}"
        what = "which the source lacks, or holds in another type: put it back"
        raise Failure(f"{needs}, {what} until it is not compared") from None
    return found.to_pandas()
