"""The model registry: versions with their tags and aliases, and the bundles that they stand for.

MLflow's client reads and writes it. Of an embedded one SQLite does that instead: so `rollback`,
`audit` and `trace` do without the import of MLflow, which takes 3 to 4 seconds of CPU.
"""

import json
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

VERSIONS = """
SELECT version, run_id, creation_time,
    (SELECT json_group_object(key, value) FROM model_version_tags AS tags
     WHERE tags.name = versions.name AND tags.version = versions.version),
    (SELECT json_group_array(alias) FROM registered_model_aliases AS aliases
     WHERE aliases.name = versions.name AND aliases.version = versions.version)
FROM model_versions AS versions
WHERE name = ? AND current_stage <> 'Deleted_Internal' ORDER BY version
"""


@dataclass(frozen=True)
class Version:
    """A registered version of the project's model."""

    number: str
    run_id: str
    created: datetime
    tags: dict[str, str]
    aliases: list[str]


class Registry:
    """The versions of one model, by MLflow's client."""

    def __init__(self, name: str, uri: str) -> None:
        self.name = name
        self.uri = uri

    def versions(self) -> list[Version]:
        """Return all, the first one first."""
        with connect(self.uri) as client:
            wanted = f"name = '{self.name}'"
            models = client.search_registered_models(wanted)
            found = client.search_model_versions(wanted)
        aliases = {name: str(of) for name, of in models[0].aliases.items()} if models else {}
        return [
            Version(
                number=str(each.version),
                run_id=each.run_id,
                created=moment(each.creation_timestamp),
                tags=dict(each.tags),
                aliases=[name for name, number in aliases.items() if number == str(each.version)],
            )
            for each in sorted(found, key=lambda each: int(each.version))
        ]

    def by_alias(self, alias: str) -> Version | None:
        return next((each for each in self.versions() if alias in each.aliases), None)

    def by_number(self, number: str) -> Version | None:
        return next((each for each in self.versions() if each.number == number), None)

    def of_bundle(self, sha256: str) -> Version | None:
        """Return the first version that was registered of a bundle."""
        found = (each for each in self.versions() if each.tags.get("bundle_sha256") == sha256)
        return next(found, None)

    def set_tag(self, number: str, key: str, value: str) -> None:
        with connect(self.uri) as client:
            client.set_model_version_tag(self.name, number, key, value)

    def set_alias(self, alias: str, number: str) -> None:
        with connect(self.uri) as client:
            client.set_registered_model_alias(self.name, alias, number)

    def delete_alias(self, alias: str) -> None:
        with connect(self.uri) as client:
            client.delete_registered_model_alias(self.name, alias)

    def fetch(self, version: Version, target: Path) -> Bundle:
        """Copy a version's bundle to a folder that is not there yet; refuse a changed one."""
        about = f"version {version.number} of {self.name}"
        if not (digest := version.tags.get("bundle_sha256")):
            raise Failure(f"{about} was not registered by `promote`: it has no bundle")
        self.download(version.run_id, f"bundle/{digest[:12]}", target)
        bundle = open_bundle(target)
        if bundle.sha256 != digest:
            raise Refusal(f"the registry's files of {about} are not those that were registered")
        return bundle

    def download(self, run_id: str, path: str, target: Path) -> None:
        with connect(self.uri) as client, tempfile.TemporaryDirectory() as folder:
            shutil.copytree(client.download_artifacts(run_id, path, folder), target)


class EmbeddedRegistry(Registry):
    """The registry in an SQLite file, as MLflow keeps it there."""

    def versions(self) -> list[Version]:
        return [
            Version(str(number), run_id, moment(created), json.loads(tags), json.loads(aliases))
            for number, run_id, created, tags, aliases in self.query(VERSIONS, self.name)
        ]

    def set_tag(self, number: str, key: str, value: str) -> None:
        values = (self.name, number, key, value)
        sql = "REPLACE INTO model_version_tags (name, version, key, value) VALUES (?, ?, ?, ?)"
        self.query(sql, *values)

    def set_alias(self, alias: str, number: str) -> None:
        sql = "REPLACE INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)"
        self.query(sql, self.name, alias, number)

    def delete_alias(self, alias: str) -> None:
        sql = "DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?"
        self.query(sql, self.name, alias)

    def download(self, run_id: str, path: str, target: Path) -> None:
        found = self.query("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        if not found:
            raise Failure(f"the registry at {self.uri} has lost run {run_id}")
        if folder := local_folder(found[0][0], self.uri):
            shutil.copytree(folder / path, target)
        else:
            super().download(run_id, path, target)

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


def moment(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
