"""Train: fit the pipeline on the training window and record the run."""

import pandas as pd
from sklearn.pipeline import Pipeline

from . import files, registry, tracking
from .errors import Failure, run
from .files import MODEL, TRAIN
from .model import build, inputs, round_thresholds, save
from .params import Train, load_params
from .schema import Schema, load_schema
from .settings import load_settings


def fit(table: pd.DataFrame, schema: Schema, params: Train) -> Pipeline:
    seen = table[schema.target].unique()
    if missing := [name for name in schema.classes if name not in seen]:
        raise Failure(f"no row to train on is of the class {missing[0]!r}: see split in params.yaml")
    target = table[schema.target].to_numpy(dtype=object if schema.classes else float)
    try:
        model = build(schema, params).fit(inputs(table, schema), target)
    except (TypeError, ValueError) as error:  # such as a parameter that the estimator refuses
        reason = str(error).splitlines()[0]
        raise Failure(f"{params.model} cannot be fitted, see train in params.yaml: {reason}") from None
    round_thresholds(model)
    return model


def main() -> None:
    schema, params = load_schema(), load_params().train
    # Opened first, so that nothing is trained in vain when it cannot be recorded.
    with registry.session(load_settings()) as client:
        table = files.read_sample(TRAIN, params.max_rows, params.seed)
        print(f"train: {params.model} on {len(table):,} rows, {len(schema.features)} features")
        model = fit(table, schema, params)
        with files.writing(MODEL) as beside:
            save(model, beside)
        run_id = tracking.record_training(client)
    print(f"train: MLflow run {run_id}")


if __name__ == "__main__":
    run(main)
