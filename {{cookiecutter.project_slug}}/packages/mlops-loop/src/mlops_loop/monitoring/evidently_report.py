"""Evidently's own report on a window's drift. It takes seconds to load and to draw: on request."""

import warnings

import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.drift import EvidentlyReport, numeric_columns, typed

METHODS = {"num_method": "wasserstein", "cat_method": "jensenshannon"}


def evidently_report(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    limits: dict[str, float],
    drift_columns: int = 1,
) -> EvidentlyReport:
    """Return Evidently's report on the columns that have a value here and in the reference."""
    with warnings.catch_warnings(action="ignore"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        tables = typed([current, reference], schema)
        numeric = numeric_columns(schema)
        named = [name for name in numeric if all(table[name].notna().any() for table in tables)]
        defined = DataDefinition(  # which Evidently would guess
            numerical_columns=[name for name in named if numeric[name]],
            categorical_columns=[name for name in named if not numeric[name]],
        )
        preset = DataDriftPreset(
            columns=named,
            per_column_threshold={name: limits[name] for name in named},
            drift_share=min(1, drift_columns / len(named)),  # for the headline
            **METHODS,
        )
        data = (Dataset.from_pandas(table[named], data_definition=defined) for table in tables)
        report: EvidentlyReport = Report([preset], include_tests=True).run(*data)
    return report
