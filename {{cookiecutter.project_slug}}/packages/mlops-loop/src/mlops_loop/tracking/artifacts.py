"""Artifacts: the files of an embedded registry, found beside its database wherever that is moved.

MLflow stores absolute paths. An experiment at `project:mlruns` has relative ones instead: this
module is the plugin that resolves them, see the entry point in pyproject.toml.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEME = "project:"
LOCATION = f"{SCHEME}mlruns"


def local_folder(artifact_uri: str, tracking_uri: str) -> Path | None:
    """Return the folder that an artifact URI names on this machine; None if it is elsewhere."""
    if artifact_uri.startswith(SCHEME):
        database = tracking_uri.removeprefix("sqlite:///")
        beside = Path(database).resolve().parent if database != tracking_uri else Path.cwd()
        return beside / artifact_uri.removeprefix(SCHEME).lstrip("/")
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if len(parts.scheme) > 1 else Path(artifact_uri)  # C:\ is no scheme


def open_artifacts(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> object:
    """Return MLflow's artifact repository of a `project:` URI; called by MLflow."""
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    uri = tracking_uri or registry_uri or mlflow.get_tracking_uri()
    return LocalArtifactRepository(str(local_folder(artifact_uri, uri)))
