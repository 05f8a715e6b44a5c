"""Cast rows to the contract's types, and report for each row what breaks the contract.

The API checks a request with pydantic types made from the same contract
(serving/request_schema.py); a property-based test holds the two against each other.
"""

from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_loop.contract.schema import Column

ARROW = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "id": pa.string(),
    "timestamp": pa.timestamp("us"),  # UTC where the source names a time zone
}
SPELLED = {  # how every text begins that Arrow can read
    "number": r"^[-+]?(\.?[0-9]|nan|inf)",
    "integer": r"^[-+]?(\.?[0-9]|nan)",
    "boolean": r"^[01tf]",
}
MISFIT = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
)  # all that Arrow raises are among them


def cast(values: pa.Array | pa.ChunkedArray, column: Column) -> pa.Array | pa.ChunkedArray:
    """Return the values in the contract's type; raises one of MISFIT where a value does not fit.

    A text is read as the number, time or truth value that it spells; a number is never taken for a
    truth value, or the other way round.
    """
    kind = values.type
    wanted = ARROW[column.type]
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_null(kind) or kind == wanted:
        return values.cast(wanted)
    texts = is_text(kind) or wanted == pa.string()
    if pa.types.is_boolean(kind) != (column.type == "boolean") and not texts:
        raise pa.ArrowInvalid(f"{kind} where the contract says {column.type}")
    if column.type == "timestamp":
        return to_time(values, column)
    if pa.types.is_floating(kind) and column.type == "integer":
        values = pc.if_else(pc.is_nan(values), None, values)
    if is_text(kind) and wanted != pa.string():
        values = pc.utf8_trim_whitespace(values)
    if is_text(kind) and column.type == "integer":
        try:
            return values.cast(wanted)
        except pa.ArrowInvalid:
            return values.cast(pa.float64()).cast(wanted)  # 5.0 is whole too
    return values.cast(wanted, safe=column.type != "number")  # the largest integers are rounded


def is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def to_time(values: pa.Array | pa.ChunkedArray, column: Column, errors: str = "raise") -> pa.Array:
    """Return texts, dates or times as times without a zone: UTC where they name one."""
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        naive = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False)
        return naive.cast(pa.timestamp("us"))
    texts = values.cast(pa.string()).to_pandas()
    times = pd.to_datetime(texts, format=column.format or "ISO8601", utc=True, errors=errors)
    return pa.array(times.dt.tz_localize(None), pa.timestamp("us"))


def latest_now() -> pd.Timestamp:
    """Return the time it is where it is latest: times without a zone are often local ones."""
    return pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(hours=14)


def cast_table(
    table: pa.Table, columns: Mapping[str, Column], as_text: set[str] | None = None
) -> pa.Table:
    """Return those of `columns` that the table has, in the contract's types and order.

    A column that does not fit its type is kept as text, for `validate` to report, and its name is
    added to `as_text`; a column named there is not tried again.
    """
    as_text = set() if as_text is None else as_text
    found = {}
    for name, column in columns.items():
        if name in table.column_names:
            values = table.column(name)
            if name not in as_text:
                try:
                    found[name] = cast(values, column)
                    continue
                except MISFIT:
                    as_text.add(name)
            found[name] = to_text(values)
    return pa.table(found)


def to_text(values: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    try:
        return values.cast(pa.string())
    except MISFIT:  # lists and the like
        return pa.array(
            [None if value is None else str(value) for value in values.to_pylist()], pa.string()
        )


def cast_if_valid(table: pa.Table, columns: Mapping[str, Column]) -> pa.Table | None:
    """Return the columns in their types, or None if any row may break the contract: `check_rows`
    reports which.

    Quick, because no row is looked at on its own. `table` must have all of `columns`.
    """
    typed = {}
    for name, column in columns.items():
        try:
            typed[name] = cast(table.column(name), column)
        except MISFIT:
            return None
        if not is_valid(table.column(name), typed[name], column):
            return None
    return pa.table(typed)


def is_valid(given: pa.ChunkedArray, typed: pa.Array | pa.ChunkedArray, column: Column) -> bool:
    """Return whether all values of a column keep the contract, before and after they came into its
    type.
    """
    gaps = [pc.sum(pc.is_null(values, nan_is_null=True)).as_py() or 0 for values in (given, typed)]
    if gaps[0] != gaps[1] or (gaps[0] and not column.nullable):
        return False
    if column.type in ("number", "integer"):
        low, high = column.limits
        found = pc.min_max(typed).as_py()
        return found["min"] is None or bool(low <= found["min"] and found["max"] <= high)
    if column.categories is not None and not column.allow_unknown:
        return set(pc.unique(typed).to_pylist()) <= {*column.categories, None}
    return True


def check_rows(
    table: pd.DataFrame, columns: Mapping[str, Column]
) -> tuple[pd.DataFrame, pd.Series]:
    """Return the columns in their types, and what breaks the contract in each row ("" if nothing).

    Values that do not fit their type come out as missing ones.
    """
    typed = {}
    reasons = pd.Series("", index=table.index, dtype=object)
    for name, column in columns.items():
        if name not in table:
            reasons[:] = reasons.where(reasons != "", f"{name}: missing")
            continue
        missing = table[name].isna()
        values = typed[name] = cast_series(table[name], column)
        wrong = {f"is not of type {column.type}": values.isna() & ~missing}
        if not column.nullable:
            wrong["is missing"] = missing
        if column.type in ("number", "integer"):
            low, high = column.limits
            wrong["is out of range"] = (values < low) | (values > high)
        if column.categories is not None and not column.allow_unknown:
            wrong["is not one of the categories"] = values.notna() & ~values.isin(column.categories)
        for reason, rows in wrong.items():
            if rows.any():
                reasons = reasons.where((reasons != "") | ~rows, f"{name} {reason}")
    return pd.DataFrame(typed, index=table.index), reasons


def cast_series(values: pd.Series, column: Column) -> pd.Series:
    """Return the values in the contract's type, missing where one does not fit."""
    try:
        array = pa.array(values, from_pandas=True)
    except MISFIT:  # of several types: each on its own
        array = pa.concat_arrays([cast_value(value, column) for value in values])
    else:
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if is_text(array.type) and column.type in SPELLED:  # quickly away with what cannot fit
            trimmed = pc.utf8_trim_whitespace(array)
            hopeful = pc.match_substring_regex(trimmed, SPELLED[column.type], ignore_case=True)
            array = pc.if_else(hopeful, array, pa.scalar(None, array.type))
        array = cast_or_null(array, column)
    return array.to_pandas().set_axis(values.index)


def cast_value(value: object, column: Column) -> pa.Array:
    try:
        return cast(pa.array([value], from_pandas=True), column)
    except MISFIT:
        return pa.nulls(1, ARROW[column.type])


def cast_or_null(values: pa.Array, column: Column) -> pa.Array:
    """Return the values in the contract's type, null where one does not fit."""
    try:
        return cast(values, column)
    except MISFIT:
        if is_text(values.type) and column.type == "timestamp":
            return to_time(values, column, "coerce")
        if len(values) == 1:
            return pa.nulls(1, ARROW[column.type])
    # Halves, until what does not fit is alone: fast where it is rare.
    half = len(values) // 2
    return pa.concat_arrays(
        [cast_or_null(values[:half], column), cast_or_null(values[half:], column)]
    )
