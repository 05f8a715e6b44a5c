"""A session with MLflow itself, on a tracking server or embedded in this folder."""

import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.tracking.artifacts import LOCATION

if TYPE_CHECKING:
    from mlflow import MlflowClient

NEEDED = 3  # MLflow's major version on a server
DEFAULTS = {
    # By default it tries seven times with growing pauses: minutes until one hears that it is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A model's requirements are those that it names, and not this workspace's lock file.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
}


@contextmanager
def session(settings: Settings) -> Iterator["MlflowClient"]:
    """Give a client, with the project's experiment as the active one."""
    uri = settings.mlflow_tracking_uri
    with connect(uri) as client:
        import mlflow

        name = settings.mlflow_experiment_name
        if uri.startswith("sqlite:") and not client.get_experiment_by_name(name):
            with suppress(mlflow.MlflowException):  # another process has just made it
                client.create_experiment(name, LOCATION)
        mlflow.set_experiment(name)
        yield client


@contextmanager
def connect(uri: str) -> Iterator["MlflowClient"]:
    """Give a client; whatever MLflow raises comes out as a Failure."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Its hints are about how it is called here, which no user can change.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    try:
        import mlflow

        mlflow.set_tracking_uri(uri)
        if uri.startswith("sqlite:"):
            yield open_database(Path(uri.partition(":///")[2]))
        else:
            if uri.startswith(("http://", "https://")):
                check_server(uri)
            yield mlflow.MlflowClient()
    except Failure:
        raise
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        if any(frame.f_globals.get("__name__", "").startswith("mlflow.") for frame, _ in frames):
            raise unusable(uri, error) from None
        raise


def open_database(database: Path) -> "MlflowClient":
    from filelock import FileLock
    from mlflow import MlflowClient

    if "%" in str(database.resolve()):  # its migrations read it as a variable
        raise Failure(f"MLflow cannot work in a folder with % in its path: move {Path.cwd()}")
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make the database at the same time would break it.
    with FileLock(f"{database}.lock", timeout=60):
        return MlflowClient()


@cache
def check_server(uri: str) -> None:
    """Raise a Failure for a server that is too old, or no tracking server: MLflow does not say."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(uri), "/version", "GET", raise_on_status=False)
    if answer.status_code in (401, 403):
        raise unusable(uri, f"it answers {answer.status_code}: who may log in?")
    version = re.match(r"(\d+)\.\d+\S*$", answer.text.strip()) if answer.ok else None
    if version is None:
        raise unusable(uri, "no MLflow server answers there")
    if int(version[1]) < NEEDED:
        raise unusable(uri, f"server {version[0]}, needed {NEEDED}.x: update the server")


def unusable(uri: str, error: object) -> Failure:
    """Return the one line about what MLflow, its database or its server says."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Failure(redacted(f"MLflow at {uri}: {reason} (see MLFLOW_TRACKING_URI)"))


def experiment_name() -> str:
    """Return the name of the experiment and of the registered model."""
    return load_settings().mlflow_experiment_name
