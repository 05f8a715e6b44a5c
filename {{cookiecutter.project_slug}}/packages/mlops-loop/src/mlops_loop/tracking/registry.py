"""The model registry: versions with their tags and aliases, and the files of their runs.

An embedded registry is read and written in MLflow's tables, a server's through its REST API. So
`rollback`, `audit` and `trace` do without the import of MLflow, which takes seconds.
"""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.tracking.artifacts import local_folder
from mlops_loop.tracking.server import Server, is_server, unusable

if TYPE_CHECKING:
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    Table = sa.Table[ReadOnlyColumnCollection[str, sa.Column[object]]]


@dataclass(frozen=True)
class Version:
    """A registered version of the project's model."""

    number: str
    run_id: str
    created: datetime
    tags: dict[str, str]
    aliases: tuple[str, ...]


class Registry(Protocol):
    """The versions of one model."""

    name: str

    def versions(self) -> list[Version]: ...

    def set_tag(self, number: str, key: str, value: str) -> None: ...

    def delete_tag(self, number: str, key: str) -> None: ...

    def set_alias(self, alias: str, number: str) -> None: ...

    def delete_alias(self, alias: str) -> None: ...

    def run_name(self, run_id: str) -> str: ...

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        """Copy a folder of a run's files to a folder that is not there yet."""


def open_registry(settings: Settings) -> Registry:
    name = settings.mlflow_experiment_name
    uri = settings.mlflow_tracking_uri
    if is_server(uri):
        return ServedRegistry(name, Server(uri))
    return EmbeddedRegistry(name, uri)


def by_alias(registry: Registry, alias: str) -> Version | None:
    return next((each for each in registry.versions() if alias in each.aliases), None)


def by_number(registry: Registry, number: str) -> Version | None:
    return next((each for each in registry.versions() if each.number == number), None)


def of_bundle(registry: Registry, digest: str) -> list[Version]:
    """Return the versions that were registered of a bundle, the first one first."""
    return [each for each in registry.versions() if each.tags.get("bundle_sha256") == digest]


def fetch_bundle(registry: Registry, version: Version, target: Path) -> None:
    """Copy a version's bundle to a folder that is not there yet."""
    if not (digest := version.tags.get("bundle_sha256")):
        raise Failure(f"version {version.number} was not registered by `promote`: it has no bundle")
    registry.fetch(version.run_id, f"bundle/{digest[:12]}", target)


def milliseconds(number: int) -> datetime:
    return datetime.fromtimestamp(number / 1000, UTC)


def table(name: str, *columns: str) -> "Table":
    return sa.Table(name, sa.MetaData(), *(sa.Column(column) for column in columns))


Keys = dict[str, str | int]  # values of columns
# MLflow's tables, in what is used of them here. Their column `workspace`, which older ones lack,
# has a default.
VERSIONS = table("model_versions", "name", "version", "creation_time", "current_stage", "run_id")
TAGS = table("model_version_tags", "name", "version", "key", "value")
ALIASES = table("registered_model_aliases", "name", "version", "alias")
RUNS = table("runs", "run_uuid", "name", "artifact_uri")
DELETED = "Deleted_Internal"  # the stage of a version that MLflow calls deleted


class EmbeddedRegistry:
    """The registry in a database, as MLflow keeps it there."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        try:
            self.engine = sa.create_engine(url)
        except (SQLAlchemyError, ImportError) as error:
            raise unusable(url, error) from None

    def versions(self) -> list[Version]:
        if not self.is_there():
            return []
        mine = VERSIONS.c.name == self.name
        rows = self.read(sa.select(VERSIONS).where(mine, VERSIONS.c.current_stage != DELETED))
        tags = self.read(sa.select(TAGS).where(TAGS.c.name == self.name))
        aliases = self.read(sa.select(ALIASES).where(ALIASES.c.name == self.name))
        found = [
            Version(
                number=str(row["version"]),
                run_id=str(row["run_id"]),
                created=milliseconds(int(str(row["creation_time"]))),
                tags={
                    str(tag["key"]): str(tag["value"])
                    for tag in tags
                    if tag["version"] == row["version"]
                },
                aliases=tuple(
                    str(alias["alias"]) for alias in aliases if alias["version"] == row["version"]
                ),
            )
            for row in rows
        ]
        return sorted(found, key=lambda version: int(version.number))

    def set_tag(self, number: str, key: str, value: str) -> None:
        self.put(TAGS, {"name": self.name, "version": int(number), "key": key}, {"value": value})

    def delete_tag(self, number: str, key: str) -> None:
        self.put(TAGS, {"name": self.name, "version": int(number), "key": key}, None)

    def set_alias(self, alias: str, number: str) -> None:
        self.put(ALIASES, {"name": self.name, "alias": alias}, {"version": int(number)})

    def delete_alias(self, alias: str) -> None:
        self.put(ALIASES, {"name": self.name, "alias": alias}, None)

    def run_name(self, run_id: str) -> str:
        return self.run(run_id)[0]

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        _, uri = self.run(run_id)
        if folder := local_folder(uri, self.url):
            shutil.copytree(folder / path, target)
        else:
            fetch_by_mlflow(self.url, f"{uri}/{path}", target)

    def run(self, run_id: str) -> tuple[str, str]:
        """Return name and artifact URI of a run."""
        rows = self.read(sa.select(RUNS).where(RUNS.c.run_uuid == run_id))
        if not rows:
            raise Failure(f"the registry at {self.url} has lost run {run_id}")
        return str(rows[0]["name"]), str(rows[0]["artifact_uri"])

    def is_there(self) -> bool:
        """Return whether MLflow has made its tables; SQLite would make an empty file."""
        file = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        if file and not Path(file).is_file():
            return False
        try:
            return sa.inspect(self.engine).has_table(VERSIONS.name)
        except SQLAlchemyError as error:
            raise unusable(self.url, error) from None

    def read(self, query: sa.Executable) -> list[sa.RowMapping]:
        try:
            with self.engine.connect() as connection:
                return list(connection.execute(query).mappings())
        except SQLAlchemyError as error:
            raise unusable(self.url, error) from None

    def put(self, table: "Table", key: Keys, values: Keys | None) -> None:
        """Write the row of this key in one transaction; without values, delete it."""
        same = [table.c[name] == value for name, value in key.items()]
        try:
            with self.engine.begin() as connection:
                if values is None:
                    connection.execute(sa.delete(table).where(*same))
                elif not connection.execute(sa.update(table).where(*same).values(values)).rowcount:
                    connection.execute(sa.insert(table).values(key | values))
        except SQLAlchemyError as error:
            raise unusable(self.url, error) from None


class ServedRegistry:
    """The registry of a tracking server."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server

    def versions(self) -> list[Version]:
        model = self.server.get("registered-models/get", name=self.name)
        aliases = model.registered_model.aliases
        found = self.server.search_versions(self.name)
        return [
            Version(
                number=each.version,
                run_id=each.run_id,
                created=milliseconds(each.creation_timestamp),
                tags={tag.key: tag.value for tag in each.tags},
                aliases=tuple(a.alias for a in aliases if a.version == each.version),
            )
            for each in sorted(found, key=lambda each: int(each.version))
        ]

    def set_tag(self, number: str, key: str, value: str) -> None:
        about = {"name": self.name, "version": number, "key": key, "value": value}
        self.server.send("POST", "model-versions/set-tag", about)

    def delete_tag(self, number: str, key: str) -> None:
        about = {"name": self.name, "version": number, "key": key}
        self.server.send("DELETE", "model-versions/delete-tag", about)

    def set_alias(self, alias: str, number: str) -> None:
        about = {"name": self.name, "alias": alias, "version": number}
        self.server.send("POST", "registered-models/alias", about)

    def delete_alias(self, alias: str) -> None:
        about = {"name": self.name, "alias": alias}
        self.server.send("DELETE", "registered-models/alias", about)

    def run_name(self, run_id: str) -> str:
        return self.server.get("runs/get", run_id=run_id).run.info.run_name

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        self.server.download(run_id, path, target)


def fetch_by_mlflow(tracking_uri: str, artifact_uri: str, target: Path) -> None:
    """Copy files from where only MLflow's plugins reach, such as an object store."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.artifacts.download_artifacts(artifact_uri, dst_path=str(target))
