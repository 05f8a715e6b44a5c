"""Tables of metrics, as card and evaluation page show them."""

import pandas as pd

from mlops_loop.base import files
from mlops_loop.metrics.values import Intervals, Measured
from mlops_loop.reporting.formats import as_cells, in_words, interval

Row = list[object]


def results(measured: Measured, intervals: Intervals) -> list[Row]:
    """Return each metric of the model with its interval, and the naive baseline's."""
    baseline = measured["baseline"]
    return [
        [
            name,
            in_words(name, value),
            interval(*intervals.get(name, (None, None))),
            in_words(name, baseline[name]),
        ]
        for name, value in measured["test"].items()
    ]


def rows_of(frame: pd.DataFrame) -> tuple[list[str], list[Row]]:
    """Return a table's heads and rows."""
    records = files.plain(frame.to_dict("records"))
    rows = [as_cells(record) for record in records]
    return list(map(str, frame)), rows
