"""A session with MLflow itself, on a tracking server or embedded in this folder."""

import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.tracking.artifacts import LOCATION
from mlops_loop.tracking.server import Server, is_server, unusable

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def session(settings: Settings) -> Iterator["MlflowClient"]:
    """Give a client of the tracking server; whatever MLflow raises comes out as a Failure."""
    uri = settings.mlflow_tracking_uri
    if is_server(uri):
        Server(uri)  # says what is wrong with an old one, which MLflow's client does not
    quieten()
    try:
        import mlflow
        from mlflow import MlflowClient

        mlflow.set_tracking_uri(uri)
        if uri.startswith("sqlite:"):
            create_experiment(Path(uri.partition(":///")[2]), settings.mlflow_experiment_name)
        mlflow.set_experiment(settings.mlflow_experiment_name)
        yield MlflowClient()
    except Exception as error:
        if is_failure_of_mlflow(error):
            raise unusable(uri, error) from None
        raise


def quieten() -> None:
    """Set what MLflow does by default otherwise; who has set it keeps that."""
    # By default it tries seven times with growing pauses: minutes until one hears that it is down.
    defaults = {"HTTP_REQUEST_MAX_RETRIES": "2", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    # A model's requirements are those that it names, and not this workspace's lock file.
    defaults |= {"UV_AUTO_DETECT": "false", "LOG_UV_FILES": "false"}
    for name, value in defaults.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    # Its hints are about how it is called here, which no user can change.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")


def create_experiment(database: Path, name: str) -> None:
    from filelock import FileLock, Timeout
    from mlflow import MlflowClient

    if "%" in str(database.resolve()):  # its migrations read it as a variable
        raise Failure(f"MLflow cannot work in a folder with % in its path: move {Path.cwd()}")
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = f"{database}.lock"
    try:
        # Two processes that make the database at the same time would break it.
        with FileLock(lock, timeout=60):
            client = MlflowClient()
            if not client.get_experiment_by_name(name):
                client.create_experiment(name, LOCATION)
    except Timeout:
        raise Failure(f"{lock} is held by another process for a minute: is one hanging?") from None


def is_failure_of_mlflow(error: Exception) -> bool:
    """Return whether MLflow, or what it called, raised an error; a Failure says it already."""
    if isinstance(error, Failure):
        return False
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith("mlflow.") for frame, _ in frames)


def experiment_name() -> str:
    """Return the name of the experiment and of the registered model."""
    return load_settings().mlflow_experiment_name
