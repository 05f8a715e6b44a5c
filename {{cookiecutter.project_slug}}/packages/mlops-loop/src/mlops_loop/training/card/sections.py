"""Sections of the card: windows, inputs, results, slices, fairness, behaviour."""

import pandas as pd
from pyarrow import parquet

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS, TEST, TRAIN, VALIDATION
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Measured
from mlops_loop.reporting.markdown import plain, table

SHOWN = 25  # slices at most


def windows(schema: Schema) -> pd.DataFrame:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    found: list[dict[str, str | int]] = []
    for path in (TRAIN, VALIDATION, TEST):
        found.append({"window": path.stem, "rows": parquet.read_metadata(path).num_rows})
        if schema.timestamp:
            times = pd.read_parquet(path, columns=[schema.timestamp])[schema.timestamp]
            found[-1] |= {"from": str(times.min()), "to": str(times.max())}
    return pd.DataFrame(found)


def overlap() -> list[str]:
    """Return what `validate` found of test rows that are among the training rows, if it matters."""
    for check in files.read_json(REPORTS / "data/validation.json")["checks"]:
        share = check["failed_rows"] / max(1, check["rows"])
        if check["rule"] == "test rows not to be in the training window" and share > 0.01:
            return [
                f"{share:.1%} of the test rows are also among the training rows: "
                "new rows will do worse."
            ]
    return []


def inputs(schema: Schema) -> pd.DataFrame:
    """Return what the contract says of each input and feature."""
    shown = {**schema.inputs, **schema.features}
    rows = [
        (name, c.type, c.unit or "", allowed(c), c.description, origin(c))
        for name, c in schema.columns.items()
        if name in shown
    ]
    return pd.DataFrame(rows, columns=["column", "type", "unit", "allowed", "meaning", "origin"])


def origin(column: Column) -> str:
    """Return whether a column is sent or derived, and whether the model sees it."""
    if column.derived:
        return "derived"
    return "input, hidden from the model" if column.role == "input" else "input"


def allowed(column: Column) -> str:
    """Return in a few words which values a column may have."""
    if column.categories is not None:
        values = f"{len(column.categories)} categories" + (
            " and others" if column.allow_unknown else ""
        )
    elif column.type == "boolean":
        values = "true, false"
    elif column.type == "timestamp":
        values = "any time"
    else:
        values = " to ".join(
            "any" if limit is None else f"{limit:g}" for limit in (column.minimum, column.maximum)
        )
    return values + (" or missing" if column.nullable else "")


def results(measured: Measured, intervals: Intervals) -> pd.DataFrame:
    """Return each metric of the model with its interval, and the naive baseline's."""
    found = []
    for name, value in measured["test"].items():
        low, high = intervals.get(name, (None, None))
        between = "" if low is None else f"{low:.4f} to {high:.4f}"
        baseline = measured["baseline"][name]
        found.append(
            {"metric": name, "model": value, "95 % interval": between, "baseline": baseline}
        )
    return pd.DataFrame(found)


def slices(by_slice: pd.DataFrame, schema: Schema) -> str:
    """Return the section on the slices, the worst first."""
    if not len(by_slice):
        return ""
    metric, more_is_better = next(iter(tasks.of(schema).GATE_METRICS.items()))
    ranked = by_slice.sort_values(metric, ascending=more_is_better, kind="stable")
    which = (
        f"The worst {SHOWN} of {len(ranked)} slices"
        if len(ranked) > SHOWN
        else "The worst slice first"
    )
    return f"### By slice\n\n{which}.\n\n{table(ranked.head(SHOWN), 3)}\n"


def protected(by_group: pd.DataFrame, schema: Schema) -> str:
    """Return the section on groups of people; nothing without a `protected` column."""
    if not schema.protected:
        return ""
    names = ", ".join(map(plain, schema.protected))
    text = f"By {names}, which the contract marks as protected: the groups are to be treated alike."
    groups = table(by_group, 3) if len(by_group) else "No group has enough rows to be judged."
    return f"### Fairness\n\n{text}\n\n{groups}\n"


def behaved(found: pd.DataFrame) -> str:
    """Return the section on the tests of behaviour.yaml."""
    if not len(found):
        return ""
    declares = "Tests that `behaviour.yaml` declares"
    text = f"{declares}: what must not change a prediction, what must, and how."
    return f"### Behaviour\n\n{text}\n\n{table(found, 3)}\n"


def candidates(compared: pd.DataFrame) -> str:
    """Return the section on the choice of the estimator; nothing where params.yaml names it."""
    if not len(compared):
        return ""
    text = "By cross-validation on the training window; less is better, and the best is in use."
    return f"## Choice of the estimator\n\n{text}\n\n{table(compared)}\n"


def pictures(names: list[str]) -> str:
    return "\n".join(f"![{name}](plots/{name}.png)" for name in names) + "\n"
