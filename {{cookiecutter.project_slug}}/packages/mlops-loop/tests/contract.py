"""What the contract allows and forbids, as Hypothesis strategies."""

from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from mlops_loop.contract.schema import Column, Schema

ZONES = st.none() | st.sampled_from([timezone(timedelta(hours=hours)) for hours in (-8, 0, 5.5)])
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=ZONES).map(
    datetime.isoformat
)


def valid_value(column: Column) -> st.SearchStrategy[Any]:
    low, high = column.limits
    values: st.SearchStrategy[Any] = {
        "number": st.floats(low, high, allow_nan=False),
        "integer": st.integers(max(int(low), -(2**53)), min(int(high), 2**53)),
        "boolean": st.booleans(),
        "category": st.sampled_from(column.categories or ("",)),
        "timestamp": TIMES,
    }[column.type]
    if column.allow_unknown:
        values |= st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
        values = values if column.nullable else values.filter(bool)
    return values | st.none() if column.nullable else values


def invalid_value(column: Column) -> st.SearchStrategy[Any]:
    """Return values that are of the wrong type, out of range, unknown, or missing."""
    low, high = column.limits
    beyond = st.sampled_from([low - abs(low) * 0.01 - 1, high + abs(high) * 0.01 + 1])
    wrong: st.SearchStrategy[Any] = {
        "number": beyond | st.sampled_from(["far", True]),
        "integer": beyond.map(int) | st.sampled_from([0.5, "far", True]),
        "boolean": st.sampled_from(["maybe", 7]),
        "category": st.sampled_from(["no such category", 7.5]),
        "timestamp": st.sampled_from(["tomorrow", "2024-02-30T00:00:00", True, 7]),
    }[column.type]
    if column.allow_unknown:  # "" stands for a missing value; half a surrogate pair is no text
        return st.sampled_from(["\ud800"] if column.nullable else ["\ud800", "", None])
    return wrong if column.nullable else wrong | st.none()


def valid_rows(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows that the contract allows; what may be missing is null or absent."""
    needed = {k: valid_value(column) for k, column in schema.inputs.items() if not column.nullable}
    optional = {k: valid_value(column) for k, column in schema.inputs.items() if column.nullable}
    return st.fixed_dictionaries(needed, optional=optional)


def invalid_rows(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows of which one value breaks the contract."""
    wrong = st.sampled_from(list(schema.inputs)).flatmap(
        lambda name: invalid_value(schema.inputs[name]).map(lambda value: {name: value})
    )
    return st.builds(lambda row, broken: row | broken, valid_rows(schema), wrong)
