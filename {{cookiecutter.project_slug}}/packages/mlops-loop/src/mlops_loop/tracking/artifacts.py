"""Artifacts: the files of an embedded registry, found beside its database wherever that is moved.

MLflow stores absolute paths. An experiment at `project:mlruns` has relative ones instead: this
module is the plugin that resolves them, see the entry point in pyproject.toml.
"""

from pathlib import Path

LOCATION = "project:mlruns"


def open_artifacts(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> object:
    """Return MLflow's artifact repository of a `project:` URI; called by MLflow."""
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    uri = tracking_uri or registry_uri or mlflow.get_tracking_uri()
    database = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else ""
    folder = Path(database).resolve().parent if database else Path.cwd()
    return LocalArtifactRepository(str(folder / artifact_uri.partition(":")[2].lstrip("/")))
