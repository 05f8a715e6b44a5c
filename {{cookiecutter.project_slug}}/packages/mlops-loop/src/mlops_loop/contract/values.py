"""Rows as JSON has them, in requests, in examples and in the prediction log."""

from collections.abc import Mapping

Value = str | int | float | bool | None  # None is a missing value
Row = Mapping[str, Value]
