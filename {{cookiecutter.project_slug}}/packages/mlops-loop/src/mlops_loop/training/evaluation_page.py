"""The page of an evaluation: whether the candidate is good, then the evidence."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlops_loop.base import files
from mlops_loop.base.files import BEHAVED, FAIRNESS, REPORTS, SLICES
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Metrics, Plots
from mlops_loop.reporting import page
from mlops_loop.reporting.formats import as_cells, in_words, interval, number
from mlops_loop.reporting.markdown import Row, embedded
from mlops_loop.scoring.bundle import OperatingPoint

TITLES = {
    SLICES: "By slice",
    FAIRNESS: "Fairness",
    BEHAVED: "Behaviour",
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "confusion": "Confusion matrix",
    "importance": "Feature importance",
    "dependence": "Partial dependence",
    "actual": "Predicted and actual",
    "coverage": "Coverage of the intervals",
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` finds: the evidence that the model card shows."""

    metrics: dict[str, Metrics]  # of the windows test and validation, and of the baseline
    point: OperatingPoint
    intervals: Intervals
    tables: dict[Path, pd.DataFrame]  # of slices, groups and behaviour
    plots: Plots


def write(found: Evaluation, schema: Schema) -> None:
    text = page.compose(
        page.PAGES["Evaluation"],
        "evaluation.html",
        names=("Data",),  # a stage's page: it links to what is surely there
        title="Evaluation",
        facts=["candidate, before the gates", f"{found.metrics['test']['rows']:,} test rows"],
        verdict=verdict(found, schema),
        point=found.point,
        schema=schema,
        results=results(found.metrics, found.intervals, "validation"),
        tables=[(TITLES[path], *rows_of(table)) for path, table in found.tables.items()],
        pictures=[
            (TITLES.get(name, name.capitalize()), embedded(f"plots/{name}.png", REPORTS))
            for name in found.plots
        ],
    )
    files.write_text(page.PAGES["Evaluation"], text)
    page.write_overview()


def verdict(found: Evaluation, schema: Schema) -> str:
    """Return in a sentence whether the candidate beats the naive baseline."""
    name, more_is_better = tasks.deciding_metric(schema)
    value, usual = (found.metrics[window][name] for window in ("test", "baseline"))
    sign = 1 if more_is_better else -1
    gains = [sign * (end - usual) for end in found.intervals[name]]
    better = "Better" if sign * (value - usual) > 0 else "Not better"
    word = "Surely better" if min(gains) > 0 else better
    measured = f"{name} {number(value)} ({interval(*found.intervals[name])})"
    return f"{word} than the naive baseline: {measured} against {number(usual)}."


def results(measured: dict[str, Metrics], intervals: Intervals, *more: str) -> list[Row]:
    """Return a row for each metric: of the test window, the naive baseline, the interval, more."""
    return [
        [
            name,
            in_words(name, measured["test"][name]),
            in_words(name, measured["baseline"][name]),
            interval(*intervals.get(name, (None, None))),
            *(in_words(name, measured[window][name]) for window in more),
        ]
        for name in measured["test"]
    ]


def rows_of(frame: pd.DataFrame) -> tuple[list[str], list[Row]]:
    """Return a table's heads and rows."""
    records = files.plain(frame.to_dict("records"))
    return list(map(str, frame)), [as_cells(record) for record in records]
