"""The page of an evaluation: whether the candidate is good, then the evidence."""

from base64 import b64encode
from dataclasses import dataclass

import pandas as pd

from mlops_loop.base import files
from mlops_loop.base.files import PLOTS
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Measured, Metrics, Plots
from mlops_loop.reporting import page
from mlops_loop.reporting.formats import in_words, interval, number
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.training.metric_tables import results, rows_of

TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "calibration": "Calibration",
    "confusion": "Confusion matrix",
    "importance": "Feature importance",
    "dependence": "Partial dependence",
    "actual": "Predicted and actual",
    "errors": "Errors",
    "coverage": "Coverage of the intervals",
}
WIDE = {"dependence"}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` finds: the evidence that the model card shows."""

    windows: dict[str, Metrics]  # test, baseline and validation
    operating_point: OperatingPoint
    intervals: Intervals
    slices: pd.DataFrame
    groups: pd.DataFrame
    behaviour: pd.DataFrame
    plots: Plots


def write(found: Evaluation, schema: Schema) -> None:
    test = found.windows["test"]
    measured = Measured(test=test, baseline=found.windows["baseline"])
    validation = found.windows["validation"]
    tables = {"By slice": found.slices, "Fairness": found.groups, "Behaviour": found.behaviour}
    text = page.compose(
        page.PAGES["Evaluation"],
        "evaluation.html",
        names=("Data",),  # a stage's page: it links to what is surely there
        title="Evaluation",
        facts=["candidate, before the gates", f"{int(test['rows']):,} rows of the test window"],
        verdict=verdict(found, schema),
        point=found.operating_point,
        schema=schema,
        results=[
            [name, value, usual, between, in_words(str(name), validation[str(name)])]
            for name, value, between, usual in results(measured, found.intervals)
        ],
        tables=[(title, *rows_of(frame)) for title, frame in tables.items() if len(frame)],
        pictures=[
            (name, TITLES.get(name, name), name in WIDE, encoded(name)) for name in found.plots
        ],
    )
    files.write_text(page.PAGES["Evaluation"], text)
    page.write_overview()


def verdict(found: Evaluation, schema: Schema) -> str:
    """Return in a sentence whether the candidate beats the naive baseline."""
    name, more_is_better = tasks.deciding_metric(schema)
    value = found.windows["test"][name]
    usual = found.windows["baseline"][name]
    low, high = found.intervals.get(name, (value, value))
    better = value > usual if more_is_better else value < usual
    surely = low > usual if more_is_better else high < usual
    between = interval(*found.intervals[name]) if name in found.intervals else ""
    word = "Surely better than" if surely else "Better than" if better else "Not better than"
    measured = f"{name} {number(value)}" + (f" ({between})" if between else "")
    return f"{word} the naive baseline: {measured} against {number(usual)}."


def encoded(name: str) -> str:
    return b64encode((PLOTS / f"{name}.png").read_bytes()).decode()
