"""What all readers share: limits, the check of column names, plain types."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mlops_loop.base.errors import Failure

MAX_COLUMNS = 2000
CELLS = 20_000_000  # values held at a time, of a wide table
BLOCK = 1 << 24  # bytes read at a time


def check_names(names: Sequence[str], name: str) -> None:
    if len(names) > MAX_COLUMNS:
        raise Failure(
            f"{name} has {len(names):,} columns, the limit is {MAX_COLUMNS:,}: leave some out"
        )
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise Failure(f"{name} has two columns called {twice[0]!r}: rename one of them")
    if "" in names:
        raise Failure(f"{name}: column {names.index('') + 1} has no name: give it one")


def plain(table: pa.Table, missing: Sequence[str]) -> pa.Table:
    """Return the table without dictionaries and rare types, and with null for what stands for
    it.
    """
    for place, field in enumerate(table.schema):
        values = table.column(place)
        if pa.types.is_dictionary(field.type):
            values = values.cast(field.type.value_type)
        if pa.types.is_float16(values.type) or pa.types.is_string_view(
            values.type
        ):  # hardly supported
            values = values.cast(pa.float32() if pa.types.is_float16(values.type) else pa.string())
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            blank = pc.is_in(values, pa.array(missing, values.type))
            values = pc.if_else(blank, None, values) if pc.any(blank).as_py() else values
        if values is not table.column(place):
            table = table.set_column(place, field.name, values)
    return table
