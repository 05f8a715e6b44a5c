"""Train: fit the pipeline on the training window and record the run."""

from mlops_loop.base import files
from mlops_loop.base.files import COMPARISON, MODEL, TRAIN
from mlops_loop.base.params import AUTO, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.data.derived import refuse_impure
from mlops_loop.scoring.skops_model import save
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training.cross_validation import compare
from mlops_loop.training.fit import fit


def main() -> None:
    schema = load_schema()
    params = load_params().train
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
        model = fit(table, schema, params.model_copy(update={"model": found.chosen}))
        about = f"{len(table):,} rows, {len(schema.features)} features"
        print(f"train: {type(model[-1]).__name__} on {about}")
        with files.writing(MODEL) as beside:
            save(model, beside)
        files.write_json(COMPARISON, found.model_dump())
        run_id = runs.record_training(client)
        for name, value in found.losses.items():
            client.log_metric(run_id, f"cross_validation.{name}.{found.metric}", value)
        client.log_artifact(run_id, str(COMPARISON))
    print(f"train: MLflow run {run_id}")
