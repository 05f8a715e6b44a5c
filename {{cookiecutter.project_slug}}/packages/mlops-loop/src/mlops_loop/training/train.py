"""Train: fit the pipeline on the training window and record the run."""

from contextlib import nullcontext

from mlops_loop.base import files
from mlops_loop.base.compute import cluster
from mlops_loop.base.files import COMPARISON, MODEL, TRAIN
from mlops_loop.base.params import AUTO, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.data.derived import refuse_impure
from mlops_loop.scoring.segmented_model import start_workers
from mlops_loop.scoring.skops_model import save
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training.cross_validation import compare
from mlops_loop.training.fit import check_segments, describe_segments, fit


def main() -> None:
    schema = load_schema()
    everything = load_params()
    params = everything.train
    segments = everything.segments
    check_segments(segments, schema)
    compute = cluster()
    workers = start_workers() if segments and not compute else None
    # Opened first, so that nothing is trained in vain when it cannot be recorded.
    with session(load_settings()) as client:
        table = tables.read_sample(TRAIN, params.max_rows, params.seed)
        refuse_impure(table, schema)
        found = compare(table, schema, params)
        for name, value in found.losses.items():
            print(f"train: cross-validated {found.metric} of {name} {value:.5g}")
        if params.model == AUTO:
            why = f"the best on {found.rows:,} rows" if found.rows else "too few rows to compare"
            print(f"train: {AUTO} is {found.chosen}, {why}")
        chosen = params.model_copy(update={"model": found.chosen})
        if workers:
            workers.join()
        with compute.parallel() if compute and segments else nullcontext():
            model = fit(table, schema, chosen, segments)
        about = f"{len(table):,} rows, {len(schema.features)} features"
        print(f"train: {type(model[-1]).__name__} on {about}")
        for line in describe_segments(model):
            print(f"train: {line}")
        with files.writing(MODEL) as beside:
            save(model, beside)
        files.write_json(COMPARISON, found.model_dump())
        run_id = runs.record_training(client)
        for name, value in found.losses.items():
            client.log_metric(run_id, f"cross_validation.{name}.{found.metric}", value)
        client.log_artifact(run_id, str(COMPARISON))
    print(f"train: MLflow run {run_id}")
