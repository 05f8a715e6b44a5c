"""Evaluate: the model on the test window, against a naive baseline, by slice and group."""

from collections.abc import Callable
from dataclasses import replace

import matplotlib
import pandas as pd
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import EvaluateParams, Params, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import bootstrap, own_metrics, segments, tasks
from mlops_loop.metrics.fairness import groups
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Scored, Scores
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.segmented_model import SegmentedModel
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training import evaluation_page, explain
from mlops_loop.training.behaviour import check, load_behaviour
from mlops_loop.training.evidence import read_evidence
from mlops_loop.training.plots import Plot, draw

Windows = dict[str, pd.DataFrame]  # train, validation and test


def score_windows(
    model: Pipeline, windows: Windows, schema: Schema, params: EvaluateParams
) -> dict[str, Scored]:
    """Return what is measured: model and naive baseline, each at its best operating point."""
    task = tasks.of(schema)

    def scored(answer: Callable[[pd.DataFrame], Scores]) -> list[Scored]:
        found = [
            Scored(task.truth(table, schema), answer(table), OperatingPoint(), schema, params)
            for table in (windows["validation"], windows["test"])
        ]
        point = task.choose_operating_point(found[0])
        return [replace(each, point=point) for each in found]

    def naive(table: pd.DataFrame) -> Scores:
        return task.baseline(windows["train"], table, schema, params.baseline_by)

    validation, test = scored(lambda table: scores(model, table, schema))
    return {"test": test, "baseline": scored(naive)[1], "validation": validation}


def slices(table: pd.DataFrame, test: Scored) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    found = []
    for name in test.schema.slices:
        for value, rows in table.groupby(group_values(table[name])).indices.items():
            enough = len(rows) >= test.params.min_slice_rows
            if enough and (measured := tasks.slice_metrics(test.at(rows))):
                found.append({"column": name, "value": value, "rows": len(rows), **measured})
    return pd.DataFrame(found or {"column": [], "value": [], "rows": []})


def evaluate(model: Pipeline, table: pd.DataFrame, test: Scored, params: Params) -> dict[str, Plot]:
    """Write the tables of slices, groups and behaviour; return the plots."""
    schema = test.schema
    plots = draw(test)
    gate = params.gates.behaviour
    with threadpool_limits(1):  # many small predictions: threads would wait for each other
        behaviour = check(
            load_behaviour(schema),
            table,
            lambda rows: scores(model, rows, schema),
            schema,
            gate.rows if gate else len(table),
            test.point,
        )
        plots["importance"] = explain.importance(model, table, test)
        important = list(plots["importance"][1]["feature"])
        plots["dependence"] = explain.dependence(model, table, important, schema)
    behaviour["limit"] = behaviour["limit"].map(">= {:g}".format)
    found = {files.SLICES: slices(table, test), files.FAIRNESS: groups(table, test)}
    for path, each in (found | {files.BEHAVED: behaviour}).items():
        files.write_text(path, each.to_csv(index=False))
    return plots


def write_plots(plots: dict[str, Plot]) -> None:
    with files.writing(files.PLOTS) as folder:
        folder.mkdir()
        for name, (figure, table) in plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    schema = load_schema()
    params = load_params()
    model = load(files.MODEL)
    paths = files.TRAIN, files.VALIDATION, files.TEST
    windows = {path.stem: tables.read_table(path) for path in paths}
    by = params.evaluate.baseline_by
    if by is not None and by not in windows["train"]:
        raise Failure(f"params.yaml: evaluate.baseline_by: there is no column {by!r}")
    matplotlib.use("Agg")  # no screen
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is no formula
    found = score_windows(model, windows, schema, params.evaluate)
    write_plots(evaluate(model, windows["test"], found["test"], params))
    measured = {name: own_metrics.measure(scored) for name, scored in found.items()}
    intervals = bootstrap.intervals(windows["test"], found["test"])
    files.write_json(files.INTERVALS, intervals)
    point = found["test"].point.as_json(schema)
    of_segments = {}
    if isinstance(model, SegmentedModel):
        each = segments.report(model, windows["train"], windows["test"], found["test"])
        of_segments = {"segments": each}
    files.write_json(files.METRICS, measured | point | of_segments)
    evaluation_page.write(read_evidence(schema), schema)
    with session(load_settings()) as client:
        run_id = runs.record_training(client)
        for window, metrics in measured.items():
            for name, value in metrics.items():
                client.log_metric(run_id, f"{window}.{name}", value)
        client.log_artifacts(run_id, str(files.PLOTS), "evaluation")
    for name in tasks.of(schema).BASELINE_METRICS:
        value, usual = (measured[window][name] for window in ("test", "baseline"))
        low, high = intervals[name]
        between = f"{low:.4f} to {high:.4f}"
        print(f"evaluate: test {name} {value:.4f} ({between}), naive baseline {usual:.4f}")
