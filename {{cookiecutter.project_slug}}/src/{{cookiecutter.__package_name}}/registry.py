"""Registry: the model's versions and aliases in MLflow, on a server or embedded in this folder."""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from .artifacts import LOCATION
from .errors import Failure, redacted
from .settings import Settings, load_settings


@contextmanager
def session(settings: Settings) -> Iterator[MlflowClient]:
    """Give a client of the tracking server; what MLflow raises comes out as a Failure."""
    uri = settings.mlflow_tracking_uri
    # By default it tries seven times with growing pauses: minutes until one hears that it is down.
    defaults = {"HTTP_REQUEST_MAX_RETRIES": "2", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for name, value in defaults.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    # Its hints are about how it is called here, which no user can change.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    experiment = settings.mlflow_experiment_name
    try:
        mlflow.set_tracking_uri(uri)
        if uri.startswith("sqlite:"):
            # Two processes that make the database at the same time would break it.
            with FileLock(f"{uri.partition(':///')[2]}.lock", timeout=60):
                if not MlflowClient().get_experiment_by_name(experiment):
                    MlflowClient().create_experiment(experiment, LOCATION)
        mlflow.set_experiment(experiment)
        yield MlflowClient()
    except (MlflowException, SQLAlchemyError, Timeout) as error:
        line = f"MLflow at {uri}: {str(error).splitlines()[0][:200]} (see MLFLOW_TRACKING_URI)"
        raise Failure(redacted(line)) from None


def name() -> str:
    """Return the name of the experiment and of the registered model."""
    return load_settings().mlflow_experiment_name


def found(ask: Callable[..., ModelVersion], *of: str) -> ModelVersion | None:
    try:
        return ask(name(), *of)
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
        raise Failure(f"version {version.version} was not registered by `promote`: it has no bundle")
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{version.run_id}/bundle/{digest[:12]}", dst_path=folder
        )
        shutil.copytree(path, target)
