"""Evidently's own report on a window's drift. It takes seconds to load and to draw: on request."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.drift import JENSEN_SHANNON, WASSERSTEIN, numeric_columns, typed

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

FILE = "evidently.html"
KEPT = 6  # newest windows that keep theirs, about five megabytes each


def evidently_report(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    limits: dict[str, float],
    drift_columns: int = 1,
) -> "Snapshot":
    """Return Evidently's report on the columns that have a limit."""
    with warnings.catch_warnings(action="ignore"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numeric = {
            name: number for name, number in numeric_columns(schema).items() if name in limits
        }
        defined = DataDefinition(  # which Evidently would guess
            numerical_columns=[name for name, number in numeric.items() if number],
            categorical_columns=[name for name, number in numeric.items() if not number],
        )
        preset = DataDriftPreset(
            columns=list(numeric),
            per_column_threshold=limits,
            drift_share=min(1, drift_columns / len(numeric)),  # for the headline
            num_method=WASSERSTEIN,
            cat_method=JENSEN_SHANNON,
        )
        tables = (typed(table, schema)[list(numeric)] for table in (current, reference))
        data = (Dataset.from_pandas(table, data_definition=defined) for table in tables)
        return Report([preset], include_tests=True).run(*data)


def drop_old(folder: Path, windows: list[str]) -> None:
    """Delete the reports of all windows but the last ones; `folder` is that of all windows."""
    for path in folder.glob(f"*/{FILE}"):
        if path.parent.name not in windows[-KEPT:]:
            path.unlink()
