"""Datasets: what a verb reads and writes, by the names and facts that OpenLineage has for them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BUNDLE, RAW, REPORTS, TRAIN
from mlops_loop.base.params import Sql, format_source, load_params
from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.scoring.bundle import MANIFEST, PROMOTION

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset

LOG, CHAMPION, SOURCE, TARGET, FILE = "@log", "@champion", "@source", "@target", "@file"
# Verb -> what it reads and what it writes; of a stage dvc.yaml tells.
VERBS: dict[str, tuple[list[str], list[str]]] = {
    "tune": ([str(TRAIN)], [str(files.PARAMS)]),
    "promote": ([str(BUNDLE)], [CHAMPION]),
    "rollback": ([], [CHAMPION]),
    "serve": ([CHAMPION], [LOG]),
    "score": ([SOURCE, CHAMPION], [TARGET]),
    "outcomes": ([FILE], [LOG]),
    "monitor": ([LOG, CHAMPION], [str(REPORTS / "monitor")]),
    "compare": ([LOG, CHAMPION], []),
    "retrain": ([LOG, CHAMPION], [str(REPORTS / "retrain"), CHAMPION]),
}


class Stage(BaseModel):
    """What is read of a stage of dvc.yaml; an item may be a mapping from its path to options."""

    deps: list[str | dict[str, object]] = []
    outs: list[str | dict[str, object]] = []
    metrics: list[str | dict[str, object]] = []

    def written(self) -> list[str]:
        return [path_of(item) for item in (*self.outs, *self.metrics)]


class Pipeline(BaseModel):
    stages: dict[str, Stage] = {}


def namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or current_project().name


def of_stage(verb: str) -> tuple[list[str], list[str]]:
    """Return the data that a stage of dvc.yaml reads and writes; code and settings are none."""
    stages = read_yaml(files.DVC, Pipeline).stages if files.DVC.is_file() else {}
    stage = stages.get(verb)
    if stage is None:
        return [], []
    data = {path for other in stages.values() for path in other.written()}
    reads = [path for path in map(path_of, stage.deps) if path in data]
    if str(RAW) in stage.written():
        reads.append(SOURCE)
    return reads, stage.written()


def path_of(item: str | dict[str, object]) -> str:
    return item if isinstance(item, str) else next(iter(item))


def dataset(place: str, kind: type["Dataset"]) -> "Dataset":
    """Return a dataset by the names that OpenLineage gives to places."""
    from openlineage.client.facet_v2 import dataset_version_dataset, datasource_dataset

    settings = load_settings()
    version = None
    if place == CHAMPION:
        folder = Path(settings.bundle)
        place = str(folder)
        if (folder / PROMOTION).is_file():
            version = str(files.read_json(folder / PROMOTION).get("version", ""))
            place = f"models:/{settings.mlflow_experiment_name}"
    elif place == LOG:
        place = settings.prediction_log_url
    elif place == SOURCE:
        place = source()
    where, name = names(place)
    facets: dict[str, object] = {}
    if version := version or hash_of(Path(place)):
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    facets["dataSource"] = datasource_dataset.DatasourceDatasetFacet(where, f"{where}/{name}")
    with suppress(Failure, OSError):  # a broken contract is the verb's own matter
        if fields := columns(place):
            facets["schema"] = fields
    return kind(where, name, facets=facets)


def source() -> str:
    """Return where `ingest` reads: a file, a URL, or the database of a query."""
    found = load_params().ingest.source
    return os.environ.get(found.url_env, found.url_env) if isinstance(found, Sql) else found


def names(place: str) -> tuple[str, str]:
    """Return namespace and name: of a file in the project the same on each machine."""
    if place.startswith("sqlite:///"):
        place = place.removeprefix("sqlite:///")
    if "://" in place:
        parts = urlsplit(format_source(place))
        scheme = {"postgresql": "postgres"}.get(kind := parts.scheme.partition("+")[0], kind)
        return f"{scheme}://{parts.netloc}", parts.path.strip("/")
    path = Path(place)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return "file" if path.is_absolute() else namespace(), path.as_posix()


def hash_of(path: Path) -> str | None:
    """Return the hash by which a file or a bundle is known, as `trace` shows it."""
    with suppress(OSError):
        path = path / MANIFEST if path.is_dir() else path
        return files.sha256(path) if path.is_file() else None
    return None


def columns(place: str) -> object:
    """Return the contract's columns for the tables of the pipeline."""
    from openlineage.client.facet_v2 import schema_dataset

    if Path(place) not in files.OUTPUTS:
        return None
    schema = load_schema()
    kept = schema.source if Path(place) == RAW else schema.used
    return schema_dataset.SchemaDatasetFacet(
        [
            schema_dataset.SchemaDatasetFacetFields(name, column.type, column.description or None)
            for name, column in kept.items()
        ]
    )


def is_newer(place: str, started: float) -> bool:
    """Return whether a run wrote a place; of a database and a URL it is taken for granted."""
    if place == CHAMPION:
        place = load_settings().bundle
    path = Path(place)
    if place == LOG or "://" in place:
        return True
    found = [path, *(path.rglob("*") if path.is_dir() else ())]
    slack = 1  # file systems have coarser clocks
    return path.exists() and max(one.stat().st_mtime for one in found) > started - slack
