"""The model registry: versions and aliases in MLflow."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mlops_loop.base.errors import Failure
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.tracking.runs import lineage
from mlops_loop.tracking.session import experiment_name


def found(ask: Callable[[str, str], ModelVersion], which: str) -> ModelVersion | None:
    try:
        return ask(experiment_name(), which)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def by_alias(client: MlflowClient, alias: str) -> ModelVersion | None:
    """Return the registered version with this alias."""
    return found(client.get_model_version_by_alias, alias)


def by_number(client: MlflowClient, number: str) -> ModelVersion | None:
    """Return the registered version with this number."""
    return found(client.get_model_version, number)


def fetch(version: ModelVersion, target: Path) -> None:
    """Copy a registered version's bundle to a folder that is not there yet."""
    if not (digest := version.tags.get("bundle_sha256")):
        raise Failure(
            f"version {version.version} was not registered by `promote`: it has no bundle"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{version.run_id}/bundle/{digest[:12]}", dst_path=folder
        )
        shutil.copytree(path, target)


def register(client: MlflowClient, run_id: str, bundle: Bundle) -> ModelVersion:
    """Register the bundle as a version of the model, once, with the bundle among its files."""
    if known := versions(client, bundle):
        return known[0]
    client.log_artifacts(run_id, str(bundle.folder), f"bundle/{bundle.sha256[:12]}")
    uri = client.get_run(run_id).data.tags["model_uri"]
    tags = {"bundle_sha256": bundle.sha256, **lineage()}
    made = mlflow.register_model(uri, experiment_name(), tags=tags)
    first = versions(client, bundle)[0]
    if first.version != made.version:  # another process has registered it at the same time
        client.delete_model_version(experiment_name(), made.version)
    return first


def versions(client: MlflowClient, bundle: Bundle) -> list[ModelVersion]:
    """Return the versions that were registered of a bundle, the first one first."""
    found = client.search_model_versions(f"name = '{experiment_name()}'")
    same = [version for version in found if version.tags.get("bundle_sha256") == bundle.sha256]
    return sorted(same, key=lambda version: int(version.version))
