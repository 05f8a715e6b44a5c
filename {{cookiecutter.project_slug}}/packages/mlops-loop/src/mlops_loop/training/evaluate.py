"""Evaluate: the model on the test window, against a naive baseline, by slice and group."""

from dataclasses import dataclass

import matplotlib
import pandas as pd
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import (
    BEHAVED,
    FAIRNESS,
    INTERVALS,
    METRICS,
    MODEL,
    PLOTS,
    SLICES,
    TEST,
    TRAIN,
    VALIDATION,
)
from mlops_loop.base.params import EvaluateParams, Params, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import bootstrap, tasks
from mlops_loop.metrics.fairness import Judged, groups
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.own_metrics import measure
from mlops_loop.metrics.values import Metrics, Scores, Truth
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training import evaluation_page, explain
from mlops_loop.training.behaviour.check import as_table, check
from mlops_loop.training.behaviour.declaration import load_behaviour
from mlops_loop.training.evaluation_page import Evaluation


@dataclass(frozen=True)
class Windows:
    """The rows of each window."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def slices(
    test: pd.DataFrame, truth: Truth, scored: Scores, schema: Schema, minimum: int
) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    task = tasks.of(schema)
    found = []
    for name in schema.slices:
        for value, rows in test.groupby(group_values(test[name])).indices.items():
            if len(rows) >= minimum and (
                measured := task.slice_metrics(truth[rows], scored[rows], schema)
            ):
                found.append({"column": name, "value": value, "rows": len(rows), **measured})
    return pd.DataFrame(found or {"column": [], "value": [], "rows": []})


def measure_windows(
    model: Pipeline, windows: Windows, schema: Schema, params: EvaluateParams
) -> tuple[dict[str, Metrics], OperatingPoint]:
    """Return the metrics of model and baseline, each at its best operating point."""
    task = tasks.of(schema)
    by = params.baseline_by
    earlier = task.truth(windows.validation, schema)
    truth = task.truth(windows.test, schema)
    on_validation = scores(model, windows.validation, schema)
    point = task.choose_operating_point(earlier, on_validation, schema, params)
    usual = task.baseline(windows.train, windows.validation, schema, by)
    naive_point = task.choose_operating_point(earlier, usual, schema, params)
    on_test = scores(model, windows.test, schema)
    naive = task.baseline(windows.train, windows.test, schema, by)
    found = {
        "test": measure(truth, on_test, point, schema, params),
        "baseline": measure(truth, naive, naive_point, schema, params),
        "validation": measure(earlier, on_validation, point, schema, params),
    }
    return found, point


def evaluate(model: Pipeline, windows: Windows, schema: Schema, params: Params) -> Evaluation:
    """Return how the model does on the test window: overall, by slice, group, behaviour."""
    test = windows.test
    limits = params.evaluate
    found, point = measure_windows(model, windows, schema, limits)
    truth = tasks.of(schema).truth(test, schema)
    scored = scores(model, test, schema)
    plots = tasks.of(schema).plots(truth, scored, point, schema, limits)
    gate = params.gates.behaviour
    with threadpool_limits(1):  # many small predictions: threads would wait for each other
        behaviour = check(
            load_behaviour(schema),
            test,
            lambda rows: scores(model, rows, schema),
            schema,
            gate.rows if gate else len(test),
            point,
        )
        important = explain.importance(model, test, truth, point, schema)
        plots["importance"] = explain.bars(important, schema), important
        plots["dependence"] = explain.dependence(model, test, list(important["feature"]), schema)
    return Evaluation(
        found,
        point,
        bootstrap.intervals(test, truth, scored, point, schema),
        slices(test, truth, scored, schema, limits.min_slice_rows),
        groups(Judged(test, truth, scored, point, schema, limits.min_slice_rows)),
        as_table(behaviour),
        plots,
    )


def write_reports(found: Evaluation, schema: Schema) -> None:
    """Write metrics, tables, plots and the page of an evaluation."""
    listed = {SLICES: found.slices, FAIRNESS: found.groups, BEHAVED: found.behaviour}
    for path, table in listed.items():
        files.write_text(path, table.to_csv(index=False))
    with files.writing(PLOTS) as folder:
        folder.mkdir()
        for name, (figure, table) in found.plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    files.write_json(INTERVALS, found.intervals)
    measured = found.windows | found.operating_point.as_json(schema)
    files.write_json(METRICS, measured)
    evaluation_page.write(found, schema)


def main() -> None:
    schema = load_schema()
    params = load_params()
    model = load(MODEL)
    windows = Windows(*map(tables.read_table, (TRAIN, VALIDATION, TEST)))
    by = params.evaluate.baseline_by
    if by is not None and by not in windows.train:
        raise Failure(f"params.yaml: evaluate.baseline_by: there is no column {by!r}")
    matplotlib.use("Agg")  # no screen
    found = evaluate(model, windows, schema, params)
    write_reports(found, schema)
    with session(load_settings()) as client:
        run_id = runs.record_training(client)
        for window, metrics in found.windows.items():
            for name, value in metrics.items():
                client.log_metric(run_id, f"{window}.{name}", value)
        client.log_artifacts(run_id, str(PLOTS), "evaluation")
    for name in tasks.of(schema).BASELINE_METRICS:
        value = found.windows["test"][name]
        usual = found.windows["baseline"][name]
        interval = found.intervals.get(name)
        between = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
        print(f"evaluate: test {name} {value:.4f}{between}, naive baseline {usual:.4f}")
