"""Tables of the card: windows and inputs."""

import pandas as pd
from pyarrow import parquet

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS, TEST, TRAIN, VALIDATION
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.reporting.formats import moment, number
from mlops_loop.reporting.markdown import Row

OVERLAP = "test rows not to be in the training window"


def windows(schema: Schema) -> tuple[list[str], list[Row]]:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    heads = ["window", "rows", *(["from", "to"] if schema.timestamp else [])]
    rows: list[Row] = []
    for path in (TRAIN, VALIDATION, TEST):
        count = parquet.read_metadata(path).num_rows
        if schema.timestamp:
            times = pd.read_parquet(path, columns=[schema.timestamp])[schema.timestamp]
            rows.append([path.stem, count, moment(times.min()), moment(times.max())])
        else:
            rows.append([path.stem, count])
    return heads, rows


def overlap() -> float:
    """Return which share of the test rows `validate` found among the training rows."""
    for check in files.read_json(REPORTS / "data/validation.json")["checks"]:
        if check["rule"] == OVERLAP:
            return float(check["failed_rows"] / max(1, check["rows"]))
    return 0.0


def inputs(schema: Schema) -> list[Row]:
    """Return what the contract says of each input and feature."""
    shown = {**schema.inputs, **schema.features}
    return [
        (name, c.type, c.unit or "", allowed(c), c.description, origin(c))
        for name, c in schema.columns.items()
        if name in shown
    ]


def origin(column: Column) -> str:
    """Return whether a column is sent or derived, and whether the model sees it."""
    if column.derived:
        return "derived"
    return "input, hidden from the model" if column.role == "input" else "input"


def allowed(column: Column) -> str:
    """Return in a few words which values a column may have."""
    if column.categories is not None:
        others = " and others" if column.allow_unknown else ""
        values = f"{len(column.categories)} categories{others}"
    elif column.type == "boolean":
        values = "true, false"
    elif column.type == "timestamp":
        values = "any time"
    else:
        limits = (column.minimum, column.maximum)
        values = " to ".join("any" if limit is None else number(limit) for limit in limits)
    return values + (" or missing" if column.nullable else "")
