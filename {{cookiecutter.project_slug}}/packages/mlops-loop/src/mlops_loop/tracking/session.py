"""A session with MLflow, on a tracking server or embedded in this folder."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.tracking.artifacts import LOCATION


@contextmanager
def session(settings: Settings) -> Iterator[MlflowClient]:
    """Give a client of the tracking server; what MLflow raises comes out as a Failure."""
    uri = settings.mlflow_tracking_uri
    # By default it tries seven times with growing pauses: minutes until one hears that it is down.
    defaults = {"HTTP_REQUEST_MAX_RETRIES": "2", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    # A model's requirements are those that it names, and not this workspace's lock file.
    defaults |= {"UV_AUTO_DETECT": "false", "LOG_UV_FILES": "false"}
    for name, value in defaults.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    # Its hints are about how it is called here, which no user can change.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    experiment = settings.mlflow_experiment_name
    try:
        mlflow.set_tracking_uri(uri)
        if uri.startswith("sqlite:"):
            database = Path(uri.partition(":///")[2])
            database.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that make the database at the same time would break it.
            with FileLock(f"{database}.lock", timeout=60):
                if not MlflowClient().get_experiment_by_name(experiment):
                    MlflowClient().create_experiment(experiment, LOCATION)
        mlflow.set_experiment(experiment)
        yield MlflowClient()
    except (MlflowException, SQLAlchemyError, Timeout) as error:
        line = f"MLflow at {uri}: {str(error).splitlines()[0][:200]} (see MLFLOW_TRACKING_URI)"
        raise Failure(redacted(line)) from None


def experiment_name() -> str:
    """Return the name of the experiment and of the registered model."""
    return load_settings().mlflow_experiment_name
