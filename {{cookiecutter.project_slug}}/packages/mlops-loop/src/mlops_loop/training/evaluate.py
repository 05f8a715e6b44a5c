"""Evaluate: the model on the test window, against a naive baseline, by slice and group."""

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
from mlops_loop.metrics import bootstrap, own_metrics, tasks
from mlops_loop.metrics.fairness import groups
from mlops_loop.metrics.groups import group_values
from mlops_loop.metrics.values import Scored
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training import evaluation_page, explain
from mlops_loop.training.behaviour.check import check
from mlops_loop.training.behaviour.declaration import load_behaviour
from mlops_loop.training.evaluation_page import Evaluation

Windows = dict[str, pd.DataFrame]  # train, validation and test


def slices(test: pd.DataFrame, scored: Scored) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    task = tasks.of(scored.schema)
    found = []
    for name in scored.schema.slices:
        for value, rows in test.groupby(group_values(test[name])).indices.items():
            enough = len(rows) >= scored.params.min_slice_rows
            if enough and (measured := task.slice_metrics(scored.at(rows))):
                found.append({"column": name, "value": value, "rows": len(rows), **measured})
    return pd.DataFrame(found or {"column": [], "value": [], "rows": []})


def score_windows(
    model: Pipeline, windows: Windows, schema: Schema, params: EvaluateParams
) -> dict[str, Scored]:
    """Return what is measured: model and naive baseline, each at its best operating point."""
    task = tasks.of(schema)

    def scored(name: str) -> Scored:
        table = windows[name]
        truth = task.truth(table, schema)
        return Scored(truth, scores(model, table, schema), OperatingPoint(), schema, params)

    def naive(of: Scored, name: str) -> Scored:
        by = params.baseline_by
        return replace(of, scores=task.baseline(windows["train"], windows[name], schema, by))

    validation = scored("validation")
    test = scored("test")
    point = task.choose_operating_point(validation)
    usual = task.choose_operating_point(naive(validation, "validation"))
    return {
        "test": replace(test, point=point),
        "baseline": replace(naive(test, "test"), point=usual),
        "validation": replace(validation, point=point),
    }


def evaluate(model: Pipeline, windows: Windows, schema: Schema, params: Params) -> Evaluation:
    """Return how the model does on the test window: overall, by slice, group, behaviour."""
    table = windows["test"]
    scored = score_windows(model, windows, schema, params.evaluate)
    test = scored["test"]
    plots = tasks.of(schema).plots(test)
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
        important = explain.importance(model, table, test)
        plots["importance"] = explain.bars(important, schema), important
        plots["dependence"] = explain.dependence(model, table, list(important["feature"]), schema)
    return Evaluation(
        {name: own_metrics.measure(window) for name, window in scored.items()},
        test.point,
        bootstrap.intervals(table, test),
        {
            files.SLICES: slices(table, test),
            files.FAIRNESS: groups(table, test),
            files.BEHAVED: behaviour.assign(limit=behaviour["limit"].map(">= {:g}".format)),
        },
        plots,
    )


def write_reports(found: Evaluation, schema: Schema) -> None:
    """Write metrics, tables, plots and the page of an evaluation."""
    for path, table in found.tables.items():
        files.write_text(path, table.to_csv(index=False))
    with files.writing(files.PLOTS) as folder:
        folder.mkdir()
        for name, (figure, table) in found.plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    files.write_json(files.INTERVALS, found.intervals)
    files.write_json(files.METRICS, found.metrics | found.point.as_json(schema))
    evaluation_page.write(found, schema)


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
    found = evaluate(model, windows, schema, params)
    write_reports(found, schema)
    with session(load_settings()) as client:
        run_id = runs.record_training(client)
        for window, metrics in found.metrics.items():
            for name, value in metrics.items():
                client.log_metric(run_id, f"{window}.{name}", value)
        client.log_artifacts(run_id, str(files.PLOTS), "evaluation")
    for name in tasks.of(schema).BASELINE_METRICS:
        value, usual = (found.metrics[window][name] for window in ("test", "baseline"))
        low, high = found.intervals[name]
        between = f"{low:.4f} to {high:.4f}"
        print(f"evaluate: test {name} {value:.4f} ({between}), naive baseline {usual:.4f}")
