"""The rows of the source, the windows that they are split into, and the features made of them."""

import numpy as np
import pandas as pd

from mlops_loop import Column
from mlops_loop.testing import Sample


def keeps(values: pd.Series, column: Column) -> pd.Series:
    """Return which of a column's values are within its limits, or among its categories."""
    if column.categories and not column.allow_unknown:
        return values.isin(column.categories)
    if column.type in ("number", "integer"):
        return values.between(*column.limits)
    return values.notna()


def test_values_keep_the_contract(sample: Sample) -> None:
    for name, column in sample.schema.used.items():
        values = sample.rows[name].dropna()
        assert keeps(values, column).sum() >= column.mostly * len(values), name


def test_only_what_may_be_missing_is_missing(sample: Sample) -> None:
    for name, column in sample.schema.used.items():
        allowed = column.max_null if column.nullable else 1 - column.mostly
        assert sample.rows[name].isna().mean() <= allowed, name


def test_the_model_is_tested_on_a_later_time_than_it_is_trained_on(sample: Sample) -> None:
    if time := sample.schema.timestamp:
        assert sample.train[time].max() < sample.test[time].min()
    else:
        assert len(sample.train) > len(sample.test) > 0


def test_every_class_can_be_learned(sample: Sample) -> None:
    assert set(sample.schema.classes) <= set(sample.train[sample.schema.target])


def test_a_row_s_features_come_from_that_row_alone(sample: Sample) -> None:
    rows = sample.test.head(20).drop(columns=list(sample.schema.derived))
    together = sample.inputs(rows)
    alone = [sample.inputs(rows.iloc[[place]]) for place in range(len(rows))]
    pd.testing.assert_frame_equal(together, pd.concat(alone))


def test_the_model_sees_features_only(sample: Sample) -> None:
    columns = sample.schema.columns.items()
    hidden = {name for name, column in columns if column.role != "feature"}
    assert not hidden & set(sample.inputs(sample.test))


def test_numbers_are_finite_or_missing(sample: Sample) -> None:
    numbers = sample.inputs(sample.rows).select_dtypes("number")
    assert not np.isinf(numbers.to_numpy()).any()
