"""Train: fit the pipeline on the training window and record the run."""

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import MODEL, TRAIN
from mlops_loop.base.params.params_file import load_params
from mlops_loop.base.params.train import TrainParams
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.data.derived import refuse_impure
from mlops_loop.scoring.skops_model import inputs, save
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session


def build(schema: Schema, params: TrainParams) -> Pipeline:
    """Return the project's unfitted pipeline."""
    return project.required("model")(schema, params)


def fit(table: pd.DataFrame, schema: Schema, params: TrainParams) -> Pipeline:
    seen = table[schema.target].unique()
    if missing := [name for name in schema.classes if name not in seen]:
        raise Failure(
            f"no row to train on is of the class {missing[0]!r}: see split in params.yaml"
        )
    target = table[schema.target].to_numpy(dtype=object if schema.classes else float)
    try:
        model = build(schema, params).fit(inputs(table, schema), target)
    except (TypeError, ValueError) as error:  # such as a parameter that the estimator refuses
        reason = str(error).splitlines()[0]
        where = "see train in params.yaml and build in model.py"
        raise Failure(f"the model cannot be fitted, {where}: {reason}") from None
    round_thresholds(model)
    return model


def round_thresholds(model: Pipeline) -> None:
    """Round the thresholds of boosted trees down to float32, as the exported graph has them.

    No float32 lies between a threshold and the next float32 below it, so no prediction changes.
    Rounded to the nearest, as the converter does, some would end up above a value that they were
    below.
    """
    for trees in getattr(model[-1], "_predictors", ()):
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            rounded = exact.astype("float32")
            down = np.nextafter(rounded, np.float32(-np.inf))
            tree.nodes["num_threshold"] = np.where(rounded > exact, down, rounded)


def main() -> None:
    schema = load_schema()
    params = load_params().train
    # Opened first, so that nothing is trained in vain when it cannot be recorded.
    with session(load_settings()) as client:
        table = tables.read_sample(TRAIN, params.max_rows, params.seed)
        refuse_impure(table, schema)
        model = fit(table, schema, params)
        about = f"{len(table):,} rows, {len(schema.features)} features"
        print(f"train: {type(model[-1]).__name__} on {about}")
        with files.writing(MODEL) as beside:
            save(model, beside)
        run_id = runs.record_training(client)
    print(f"train: MLflow run {run_id}")
