"""Where rows come from. Change `read()` to query a database or to join several sources."""

from collections.abc import Iterator

import pyarrow as pa

from mlops_loop import IngestParams, Schema, batches


def read(schema: Schema, params: IngestParams) -> Iterator[pa.Table]:
    """Yield the rows of the source, as Arrow tables with the contract's columns among theirs."""
    yield from batches(params.source, schema.missing)
