"""The model registry: versions with their tags and aliases, and the files of their runs.

MLflow's client reads and writes it. Of an embedded one that is done in MLflow's tables instead: so
`rollback`, `audit` and `trace` do without the import of MLflow, which takes 3 to 4 seconds of CPU.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import Settings
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.tracking.artifacts import local_folder
from mlops_loop.tracking.session import connect, unusable


@dataclass(frozen=True)
class Version:
    """A registered version of the project's model."""

    number: str
    run_id: str
    created: datetime
    tags: dict[str, str]
    aliases: tuple[str, ...]


class Registry:
    """The versions of one model, by MLflow's client."""

    def __init__(self, name: str, uri: str) -> None:
        self.name = name
        self.uri = uri

    def versions(self) -> list[Version]:
        """Return all, the first one first."""
        wanted = f"name = '{self.name}'"
        with connect(self.uri) as client:
            import mlflow

            models = client.search_registered_models(wanted)
            aliases = models[0].aliases if models else {}
            found = mlflow.search_model_versions(filter_string=wanted)
        return [
            Version(
                number=str(each.version),
                run_id=each.run_id,
                created=datetime.fromtimestamp(each.creation_timestamp / 1000, UTC),
                tags=dict(each.tags),
                aliases=tuple(name for name, n in aliases.items() if str(n) == str(each.version)),
            )
            for each in sorted(found, key=lambda each: int(each.version))
        ]

    def set_tag(self, number: str, key: str, value: str) -> None:
        with connect(self.uri) as client:
            client.set_model_version_tag(self.name, number, key, value)

    def delete_tag(self, number: str, key: str) -> None:
        with connect(self.uri) as client:
            client.delete_model_version_tag(self.name, number, key)

    def set_alias(self, alias: str, number: str) -> None:
        with connect(self.uri) as client:
            client.set_registered_model_alias(self.name, alias, number)

    def delete_alias(self, alias: str) -> None:
        with connect(self.uri) as client:
            client.delete_registered_model_alias(self.name, alias)

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        """Copy a folder of a run's files to a folder that is not there yet."""
        with connect(self.uri) as client, tempfile.TemporaryDirectory() as folder:
            shutil.copytree(client.download_artifacts(run_id, path, folder), target)


class EmbeddedRegistry(Registry):
    """The registry in an SQLite file, as MLflow keeps it there."""

    def versions(self) -> list[Version]:
        if not self.query("SELECT 1 FROM sqlite_master WHERE name = 'model_versions'"):
            return []  # MLflow has not made its tables yet
        tags = self.query(
            "SELECT version, key, value FROM model_version_tags WHERE name = ?", self.name
        )
        aliases = self.query(
            "SELECT version, alias FROM registered_model_aliases WHERE name = ?", self.name
        )
        found = self.query(
            "SELECT version, run_id, creation_time FROM model_versions"
            " WHERE name = ? AND current_stage <> 'Deleted_Internal' ORDER BY version",
            self.name,
        )
        return [
            Version(
                number=str(number),
                run_id=run_id,
                created=datetime.fromtimestamp(int(created) / 1000, UTC),
                tags={key: value for version, key, value in tags if version == number},
                aliases=tuple(alias for version, alias in aliases if version == number),
            )
            for number, run_id, created in found
        ]

    def set_tag(self, number: str, key: str, value: str) -> None:
        self.query(
            "REPLACE INTO model_version_tags (name, version, key, value) VALUES (?, ?, ?, ?)",
            *(self.name, number, key, value),
        )

    def delete_tag(self, number: str, key: str) -> None:
        self.query(
            "DELETE FROM model_version_tags WHERE name = ? AND version = ? AND key = ?",
            *(self.name, number, key),
        )

    def set_alias(self, alias: str, number: str) -> None:
        self.query(
            "REPLACE INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
            *(self.name, alias, number),
        )

    def delete_alias(self, alias: str) -> None:
        self.query(
            "DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", self.name, alias
        )

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        found = self.query("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        if not found:
            raise Failure(f"the registry at {self.uri} has lost run {run_id}")
        if folder := local_folder(found[0][0], self.uri):
            shutil.copytree(folder / path, target)
        else:
            super().fetch(run_id, path, target)

    def query(self, sql: str, *values: str) -> list[tuple[str, ...]]:
        """Run one statement in a transaction of its own; return the rows that it gives."""
        file = Path(self.uri.partition(":///")[2])
        if not file.is_file():  # SQLite would make an empty one
            return []
        try:
            with closing(sqlite3.connect(file, timeout=60)) as database, database:
                return database.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.uri, error) from None


def open_registry(settings: Settings) -> Registry:
    uri = settings.mlflow_tracking_uri
    kind = EmbeddedRegistry if uri.startswith("sqlite:") else Registry
    return kind(settings.mlflow_experiment_name, uri)


def by_alias(registry: Registry, alias: str) -> Version | None:
    return next((each for each in registry.versions() if alias in each.aliases), None)


def by_number(registry: Registry, number: str) -> Version | None:
    return next((each for each in registry.versions() if each.number == number), None)


def of_bundle(registry: Registry, digest: str) -> list[Version]:
    """Return the versions that were registered of a bundle, the first one first."""
    return [each for each in registry.versions() if each.tags.get("bundle_sha256") == digest]


def fetch_bundle(registry: Registry, version: Version, target: Path) -> Bundle:
    """Copy a version's bundle to a folder that is not there yet; refuse one that was changed."""
    if not (digest := version.tags.get("bundle_sha256")):
        raise Failure(f"version {version.number} was not registered by `promote`: it has no bundle")
    registry.fetch(version.run_id, f"bundle/{digest[:12]}", target)
    bundle = open_bundle(target)
    if bundle.sha256 != digest:
        about = f"version {version.number} of {registry.name}"
        raise Refusal(f"the registry's files of {about} are not those that were registered")
    return bundle
