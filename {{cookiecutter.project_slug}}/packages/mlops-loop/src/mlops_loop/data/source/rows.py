"""What all readers share: limits, the check of column names, plain types."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mlops_loop.base.errors import Failure

MAX_COLUMNS = 2000
BLOCK = 1 << 24  # bytes read at a time


def check_names(names: Sequence[str], name: str) -> None:
    if len(names) > MAX_COLUMNS:
        limit = f"the limit is {MAX_COLUMNS:,}: leave some out"
        raise Failure(f"{name} has {len(names):,} columns, {limit}")
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise Failure(f"{name} has two columns called {twice[0]!r}: rename one of them")
    if "" in names:
        raise Failure(f"{name}: column {names.index('') + 1} has no name: give it one")


def plain(table: pa.Table, missing: Sequence[str]) -> pa.Table:
    """Return the table without rare types and metadata, and with null for `missing` texts."""
    columns = {}
    for field in table.schema:
        values = table[field.name].cast(plain_type(field.type))
        if types.is_string(values.type) or types.is_large_string(values.type):
            blank = pc.is_in(values, pa.array(missing, values.type))
            values = pc.if_else(blank, None, values) if pc.any(blank).as_py() else values
        columns[field.name] = values
    return pa.table(columns)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type as which all others here know a column of this one."""
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_float16(kind):
        return pa.float32()
    return pa.string() if types.is_string_view(kind) else kind
