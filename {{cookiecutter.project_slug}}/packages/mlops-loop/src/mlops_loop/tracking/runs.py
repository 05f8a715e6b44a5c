"""Tracking: what a training was made of and gave, as runs and model versions in MLflow.

A run is found by the hash of the model file that DVC keeps, so the two never have to be told
about each other: the same model file is the same run.
"""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec
from mlflow.types import Schema as Inputs

from mlops_loop.base import files
from mlops_loop.base.files import MODEL, SCHEMA, TRAIN
from mlops_loop.base.params import dump, load_params
from mlops_loop.base.project import current_project, package_folder
from mlops_loop.base.work_tree import lineage
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.scoring.skops_model import describe, load
from mlops_loop.tracking.params import fitted_params
from mlops_loop.tracking.session import experiment_name

# What `mlflow models serve` needs; inferring it would take MLflow 8 seconds.
REQUIREMENTS = ("mlops-loop", "msgspec", "pandas", "pyarrow", "scikit-learn", "skops")
MLFLOW_TYPES = {
    "number": "double",
    "integer": "double",
    "boolean": "boolean",
    "category": "string",
    "timestamp": "datetime",
}


def record_training(client: MlflowClient) -> str:
    """Record the model file of the work tree as a run, unless there is one; return its id."""
    experiment = client.get_experiment_by_name(experiment_name())
    model_hash = files.sha256(MODEL)
    wanted = f"tags.model_sha256 = '{model_hash}'"
    if known := client.search_runs([experiment.experiment_id], wanted, max_results=1):
        return str(known[0].info.run_id)
    params = load_params()
    schema = load_schema()
    data_hash = files.sha256(TRAIN)
    table = tables.read_sample(TRAIN, params.train.max_rows, params.train.seed)
    estimator = describe(load(MODEL))
    sections = dump(params, {"ingest", "split", "train", "segments"})
    with mlflow.start_run(run_name=estimator.name) as active:
        mlflow.set_tags({"git_commit": lineage()["git_commit"], "data_sha256": data_hash})
        mlflow.log_params(fitted_params(sections, estimator))
        dataset = mlflow.data.from_pandas(
            table, str(TRAIN), schema.target, name="train", digest=data_hash[:32]
        )
        mlflow.log_input(dataset, context="training")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"model": str(MODEL), "schema": str(SCHEMA)},
            model_config={"project": asdict(current_project())},
            code_paths=[str(package_folder())],
            signature=signature(schema),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
        # Last, because it makes the run findable: one that was cut short is never taken.
        mlflow.set_tags({"model_uri": logged.model_uri, "model_sha256": model_hash})
        return str(active.info.run_id)


def signature(schema: Schema) -> ModelSignature:
    """Return the types of the contract's inputs, and of the scores, as MLflow knows them."""
    inputs = [
        ColSpec(MLFLOW_TYPES[column.type], name, required=not column.nullable)
        for name, column in schema.inputs.items()
    ]
    outputs = [ColSpec("double", name) for name in schema.classes or [schema.prediction]]
    return ModelSignature(Inputs(inputs), Inputs(outputs))
