"""Evaluate: score the model on the test window, against a naive baseline, overall, by slice and by group.

What it finds is the evidence on which the model card is made, and the gates judge.
"""

from base64 import b64encode

import matplotlib
import numpy as np
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
    REPORTS,
    SLICES,
    TEST,
    TRAIN,
    VALIDATION,
)
from mlops_loop.base.params import BehaviourGate, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import bootstrap, fairness, tasks
from mlops_loop.reporting import page
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training import behaviour, explain


def slices(
    test: pd.DataFrame, truth: np.ndarray, scored: np.ndarray, schema: Schema, minimum: int
) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    task, found = tasks.of(schema), []
    for name in schema.slices:
        for value, rows in test.groupby(fairness.values(test[name])).indices.items():
            if len(rows) >= minimum and (
                measured := task.slice_metrics(truth[rows], scored[rows], schema)
            ):
                found.append({"column": name, "value": value, "rows": len(rows), **measured})
    return pd.DataFrame(found or {"column": [], "value": [], "rows": []})


def behaved(
    model: Pipeline,
    table: pd.DataFrame,
    operating_point: OperatingPoint,
    schema: Schema,
    gate: BehaviourGate | None,
) -> pd.DataFrame:
    """Return how the tests of behaviour.yaml came out, on as many rows as the gate says."""
    declared, rows = behaviour.load_behaviour(schema), gate.rows if gate else len(table)
    return behaviour.check(
        declared, table, lambda rows: scores(model, rows, schema), schema, rows, operating_point
    )


def main() -> None:
    schema, everything = load_schema(), load_params()
    params = everything.evaluate
    task, model, by = tasks.of(schema), load(MODEL), params.baseline_by
    train, validation, test = map(tables.read_table, (TRAIN, VALIDATION, TEST))
    if by is not None and by not in train:
        raise Failure(f"params.yaml: evaluate.baseline_by: there is no column {by!r}")
    earlier, truth = task.truth(validation, schema), task.truth(test, schema)
    on_validation, scored = scores(model, validation, schema), scores(model, test, schema)
    naive = {
        name: task.baseline(train, table, schema, by)
        for name, table in (("validation", validation), ("test", test))
    }
    operating_point = task.choose_operating_point(earlier, on_validation, schema, params)
    naive_operating_point = task.choose_operating_point(
        earlier, naive["validation"], schema, params
    )
    windows = {
        "test": task.measure(truth, scored, operating_point, schema, params),
        "baseline": task.measure(truth, naive["test"], naive_operating_point, schema, params),
        "validation": task.measure(earlier, on_validation, operating_point, schema, params),
    }
    judged = test, truth, scored
    intervals = bootstrap.intervals(*judged, operating_point, schema)
    by_slice = slices(*judged, schema, params.min_slice_rows)
    by_group = fairness.groups(*judged, operating_point, schema, params.min_slice_rows)
    matplotlib.use("Agg")  # no screen
    plots = task.plots(truth, scored, operating_point, schema, params)
    with threadpool_limits(1):  # many small predictions: threads would wait for each other
        by_test = behaved(model, test, operating_point, schema, everything.gates.behaviour)
        important = explain.importance(model, test, truth, operating_point, schema)
        plots["importance"] = explain.bars(important, schema), important
        plots["dependence"] = explain.dependence(model, test, list(important["feature"]), schema)
    parts = [pd.DataFrame(windows).T.astype({"rows": int}).to_html(float_format="{:.4f}".format)]
    found_tables = (by_slice, by_group, by_test)
    parts += [
        table.to_html(index=False, float_format="{:.3f}".format)
        for table in found_tables
        if len(table)
    ]
    with files.writing(PLOTS) as folder:
        folder.mkdir()
        for name, (figure, table) in plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
            picture = b64encode((folder / f"{name}.png").read_bytes()).decode()
            parts.append(f'<img alt="{name}" src="data:image/png;base64,{picture}">')
    page.write_page(REPORTS / "evaluation.html", "Evaluation", *parts)
    for path, table in zip((SLICES, FAIRNESS, BEHAVED), found_tables, strict=True):
        files.write_text(path, table.to_csv(index=False))
    files.write_json(INTERVALS, intervals)
    files.write_json(METRICS, windows | operating_point.as_json(schema))
    with session(load_settings()) as client:
        run_id = runs.record_training(client)
        for name, value in runs.flat(windows).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(PLOTS), "evaluation")
    for name in task.GATE_METRICS:
        found, usual = windows["test"][name], windows["baseline"][name]
        between = " ({:.4f} to {:.4f})".format(*intervals[name]) if name in intervals else ""
        print(f"evaluate: test {name} {found:.4f}{between}, naive baseline {usual:.4f}")
