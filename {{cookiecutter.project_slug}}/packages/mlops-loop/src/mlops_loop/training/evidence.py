"""Evidence: what the reports say of a candidate, as its page and the model card show it."""

from dataclasses import dataclass

import pandas as pd

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Metrics
from mlops_loop.reporting.formats import as_cells, in_words, interval
from mlops_loop.reporting.markdown import Row

REPORTS = (  # what card and gates rest on, beside the tables of the plots
    files.COMPARISON,
    files.METRICS,
    files.INTERVALS,
    files.SLICES,
    files.FAIRNESS,
    files.BEHAVED,
    files.REPORTS / "data/validation.json",
)
Table = tuple[list[str], list[Row]]  # heads and rows
HEADS = {  # of the table of segments
    "training_rows": "training rows",
    "test_rows": "test rows",
    "baseline": "naive baseline",
}


@dataclass(frozen=True)
class Evidence:
    metrics: dict[str, Metrics]  # of the windows test and validation, and of the naive baseline
    point: Metrics  # the threshold, or half the width of an interval
    intervals: Intervals
    slices: Table  # the worst first
    segments: Table
    fairness: Table
    behaviour: Table
    plots: list[str]

    @property
    def results(self) -> Table:
        """A row for each metric."""
        heads = ["metric", "test window", "naive baseline", "95 % interval", "validation window"]
        windows = ("test", "baseline", "validation")
        rows: list[Row] = []
        for name in self.metrics["test"]:
            test, usual, before = (in_words(name, self.metrics[key][name]) for key in windows)
            between = interval(*self.intervals.get(name, (None, None)))
            rows.append([name, test, usual, between, before])
        return heads, rows


def read_evidence(schema: Schema) -> Evidence:
    found = files.read_json(files.METRICS)
    windows = ("test", "baseline", "validation")
    segments = [{"segment": name, **one} for name, one in found.pop("segments", {}).items()]
    slices = pd.read_csv(files.SLICES, converters={"value": str})  # may be called NA, or 007
    metric, more_is_better = tasks.deciding_metric(schema)
    if metric in slices:  # else there is no slice
        slices = slices.sort_values(metric, ascending=more_is_better, kind="stable")
    return Evidence(
        metrics={name: found.pop(name) for name in windows},
        point=found,
        intervals=files.read_json(files.INTERVALS),
        slices=as_table(slices),
        segments=as_table(pd.DataFrame(segments).rename(columns=HEADS)),
        fairness=as_table(pd.read_csv(files.FAIRNESS, converters={"group": str})),
        behaviour=as_table(pd.read_csv(files.BEHAVED)),
        plots=sorted(path.stem for path in files.PLOTS.glob("*.png")),
    )


def as_table(frame: pd.DataFrame) -> Table:
    records = files.plain(frame.to_dict("records"))
    return list(map(str, frame)), [as_cells(record) for record in records]
