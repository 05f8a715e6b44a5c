"""The champion's inputs: columns that the contract has dropped and the champion needs.

The pipeline's files hold the contract's columns alone, so that they depend on nothing but data,
code and parameters. What the champion needs besides is read from the source again.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW, TEST
from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import split, tables
from mlops_loop.data.ingest import Misfit, selected


def with_champion_inputs(
    champion: Schema, schema: Schema, window: pd.DataFrame, params: Params
) -> pd.DataFrame:
    """Return the test window (`window`, sampled as for the gates) with all columns of the champion.

    Raises a Failure that says what to do if there is no way to compare.
    """
    if champion.classes != schema.classes:
        raise Failure(f"the champion knows other classes of {schema.target!r}: keep them")
    lacking = {
        name: column.model_copy(update={"role": "slice"})
        for name, column in champion.inputs.items()
        if name not in schema.used or schema.used[name].type != column.type
    }
    if not lacking:
        return window
    wider = schema.model_copy(update={"columns": {**schema.columns, **lacking}})
    keys = [name for name in (schema.target, schema.timestamp) if name]
    rows = read_again(wider, [*keys, *lacking], params)
    batches = pq.ParquetFile(RAW).iter_batches(files.BATCH)
    inside = np.concatenate([split.kept(batch, schema)[0] for batch in batches])
    inside &= split.assign(schema, params.split) == list(split.SPLITS).index("test")
    test = tables.read_table(TEST)
    if len(rows) != len(inside) or not rows[inside][keys].reset_index(drop=True).equals(test[keys]):
        raise Failure(f"the source has other rows than {TEST}: run `uv run dvc repro -f ingest`")
    chosen = tables.sample_mask(len(test), params.gates.max_rows)
    return window.assign(**{name: rows.loc[inside, name][chosen].array for name in lacking})


def read_again(schema: Schema, names: list[str], params: Params) -> pd.DataFrame:
    """Return these columns from the source: the rows of RAW."""
    parts = list[pa.Table]()
    try:
        for table in selected(schema, params.ingest, {n: schema.columns[n] for n in names}):
            if gone := [name for name in names if name not in table.column_names]:
                needs = f"the champion predicts from {gone[0]!r}, of type"
                mend = "put it back into the source until it is not compared"
                raise Failure(f"{needs} {schema.columns[gone[0]].type}: {mend}")
            parts.append(table.select(names))
    except Misfit:
        raise Failure("a column of the champion has values of another type in the source") from None
    return pa.concat_tables(parts).to_pandas()
