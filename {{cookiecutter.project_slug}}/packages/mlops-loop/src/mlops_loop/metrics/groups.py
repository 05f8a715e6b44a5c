"""Groups of rows by the values of a column."""

import pandas as pd


def group_values(column: pd.Series) -> pd.Series:
    """Return the values that rows are grouped by; rows without one are a group as well."""
    return column.astype(object).where(column.notna(), "missing")
