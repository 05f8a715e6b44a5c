"""Evidently's own report on a window's drift. It takes seconds to load and to draw: on request."""

import warnings
from typing import TYPE_CHECKING

import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.drift import JENSEN_SHANNON, WASSERSTEIN, numeric_columns, typed
from mlops_loop.prediction_log.window_summary import ColumnDrift

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

FILE = "evidently.html"


def evidently_report(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    columns: dict[str, ColumnDrift],
    drift_columns: int = 1,
) -> "Snapshot":
    """Return Evidently's report on the columns that were compared, by their thresholds."""
    limits = {
        name: column.threshold for name, column in columns.items() if column.score is not None
    }
    numeric = [name for name, number in numeric_columns(schema).items() if number]
    with warnings.catch_warnings(action="ignore"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        defined = DataDefinition(  # what Evidently would guess
            numerical_columns=[name for name in limits if name in numeric],
            categorical_columns=[name for name in limits if name not in numeric],
        )
        preset = DataDriftPreset(
            columns=list(limits),
            per_column_threshold=limits,
            drift_share=min(1, drift_columns / len(limits)),  # for the headline
            num_method=WASSERSTEIN,
            cat_method=JENSEN_SHANNON,
        )
        tables = (typed(table, schema)[list(limits)] for table in (current, reference))
        data = (Dataset.from_pandas(table, data_definition=defined) for table in tables)
        return Report([preset], include_tests=True).run(*data)
