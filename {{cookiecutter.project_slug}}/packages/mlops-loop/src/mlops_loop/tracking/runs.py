"""Tracking: what a training was made of and gave, as runs and model versions in MLflow.

A run is found by the hash of the model file that DVC keeps, so the two never have to be told
about each other: the same model file is the same run.
"""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.sklearn
import pandas as pd
from mlflow import MlflowClient

from mlops_loop.base import files
from mlops_loop.base.files import MODEL, TRAIN
from mlops_loop.base.params import load_params
from mlops_loop.base.project import trusted_types
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.scoring.estimator import Estimator, describe
from mlops_loop.scoring.skops_model import inputs, load, scores
from mlops_loop.tracking.session import experiment_name


def lineage() -> dict[str, str]:
    """Return what the work tree is: its commit (-dirty where changed) and the hash of dvc.lock."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        commit = ""  # no git here
    lock = Path("dvc.lock")
    return {"git_commit": commit, "dvc_lock": files.sha256(lock) if lock.is_file() else ""}


def record_training(client: MlflowClient) -> str:
    """Record the model file of the work tree as a run, unless there is one; return its id."""
    experiment, model_hash = client.get_experiment_by_name(experiment_name()), files.sha256(MODEL)
    wanted = f"tags.model_sha256 = '{model_hash}'"
    if known := client.search_runs([experiment.experiment_id], wanted, max_results=1):
        return str(known[0].info.run_id)
    params, schema, data_hash = load_params(), load_schema(), files.sha256(TRAIN)
    table = tables.read_sample(TRAIN, params.train.max_rows, params.train.seed)
    model = load(MODEL)
    sample = inputs(table.head(1000), schema)
    estimator = describe(model)
    with mlflow.start_run(run_name=estimator.name) as active:
        mlflow.set_tags({"git_commit": lineage()["git_commit"], "data_sha256": data_hash})
        sections = params.model_dump(mode="json", include={"ingest", "split", "train"})
        mlflow.log_params(fitted_params(sections, estimator))
        about: dict[str, Any] = {"targets": schema.target, "digest": data_hash[:32]}
        dataset = mlflow.data.from_pandas(table, source=str(TRAIN), name="train", **about)
        mlflow.log_input(dataset, context="training")
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=mlflow.models.infer_signature(sample, scores(model, sample, schema)),
            serialization_format="skops",
            skops_trusted_types=trusted_types(),
            pip_requirements=[f"{name}=={version(name)}" for name in ("scikit-learn", "skops")],
        )
        # Last, because it makes the run findable: one that was cut short is never taken.
        mlflow.set_tags({"model_uri": logged.model_uri, "model_sha256": model_hash})
        return str(active.info.run_id)


def fitted_params(params: dict[str, Any], estimator: Estimator) -> dict[str, Any]:
    """Return sections of params.yaml, with the estimator that was fitted for those it might name."""
    train = {name: params["train"][name] for name in ("seed", "max_rows")}
    fitted = {"name": estimator.name, **estimator.params}
    return flat({**params, "train": train, "estimator": fitted})


def flat(nested: dict[str, Any]) -> dict[str, Any]:
    """Return {"a": {"b": 1}} as {"a.b": 1}."""
    return {str(key): value for key, value in pd.json_normalize(nested).iloc[0].items()}
