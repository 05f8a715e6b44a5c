"""Evaluate: score the model on the test window, against a naive baseline, overall and by slice."""

from base64 import b64encode

import matplotlib
import numpy as np
import pandas as pd

from . import files, tasks, tracking
from .errors import Failure, run
from .files import METRICS, MODEL, REPORTS, SLICES, TEST, TRAIN, VALIDATION
from .model import load, scores
from .params import load_params
from .schema import Schema, load_schema
from .settings import load_settings

PLOTS = REPORTS / "plots"


def slices(
    test: pd.DataFrame, truth: np.ndarray, scored: np.ndarray, schema: Schema, minimum: int
) -> pd.DataFrame:
    """Return the metrics on each value of the contract's slice columns that has enough rows."""
    task, found = tasks.of(schema), []
    for name in schema.slices:
        for value, rows in test.groupby(name).indices.items():
            if len(rows) >= minimum and (measured := task.by_slice(truth[rows], scored[rows], schema)):
                found.append({"column": name, "value": value, "rows": len(rows), **measured})
    return pd.DataFrame(found or {"column": [], "value": [], "rows": []})


def main() -> None:
    schema, params = load_schema(), load_params().evaluate
    task, model, by = tasks.of(schema), load(MODEL), params.baseline_by
    train, validation, test = map(files.read_table, (TRAIN, VALIDATION, TEST))
    if by is not None and by not in train:
        raise Failure(f"params.yaml: evaluate.baseline_by: there is no column {by!r}")
    earlier, truth = task.truth(validation, schema), task.truth(test, schema)
    on_validation, scored = scores(model, validation, schema), scores(model, test, schema)
    naive = {
        name: task.baseline(train, table, schema, by)
        for name, table in (("validation", validation), ("test", test))
    }
    decision = task.decide(earlier, on_validation, schema, params)
    naive_decision = task.decide(earlier, naive["validation"], schema, params)
    windows = {
        "test": task.measure(truth, scored, decision, schema, params),
        "baseline": task.measure(truth, naive["test"], naive_decision, schema, params),
        "validation": task.measure(earlier, on_validation, decision, schema, params),
    }
    by_slice = slices(test, truth, scored, schema, params.min_slice_rows)
    matplotlib.use("Agg")  # no screen
    plots = task.plots(truth, scored, decision, schema, params)
    parts = [pd.DataFrame(windows).T.astype({"rows": int}).to_html(float_format="{:.4f}".format)]
    parts.append(by_slice.to_html(index=False, float_format="{:.3f}".format))
    with files.writing(PLOTS) as folder:
        folder.mkdir()
        for name, (figure, table) in plots.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
            picture = b64encode((folder / f"{name}.png").read_bytes()).decode()
            parts.append(f'<img alt="{name}" src="data:image/png;base64,{picture}">')
    files.write_page(REPORTS / "evaluation.html", "Evaluation", *parts)
    files.write_text(SLICES, by_slice.to_csv(index=False))
    files.write_json(METRICS, windows | decision)
    with tracking.session(load_settings()) as client:
        run_id = tracking.record_training(client)
        for name, value in tracking.flat(windows).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(PLOTS), "evaluation")
    for name in task.GATES:
        found, usual = windows["test"][name], windows["baseline"][name]
        print(f"evaluate: test {name} {found:.4f}, naive baseline {usual:.4f}")


if __name__ == "__main__":
    run(main)
