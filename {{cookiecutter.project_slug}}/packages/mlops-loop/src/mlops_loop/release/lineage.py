"""Lineage: each run of a verb as OpenLineage events, where OPENLINEAGE_URL or the like asks for it.

The events say what `trace` says: commit, dvc.lock, the hashes of data and bundle, the version. A
receiver that is away costs a second or two and one warning: the verb itself goes on.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.files import BUNDLE, RAW, REPORTS, TRAIN
from mlops_loop.base.params import Sql, format_source, load_params
from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.base.work_tree import lineage, origin
from mlops_loop.contract.schema import load_schema
from mlops_loop.contract.versions import VERSION
from mlops_loop.scoring.bundle import MANIFEST, PROMOTION

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Dataset

PRODUCER = f"pkg:pypi/mlops-loop@{VERSION}"
PARENT = "OPENLINEAGE_PARENT_ID"  # namespace/job/run, as other integrations have it
PATIENCE = 2.0  # seconds; the client's own are 5, five times over
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


@dataclass
class Run:
    """One run of a verb, and its events."""

    client: "OpenLineageClient"
    verb: str
    id: str
    reads: list["Dataset"]
    writes: list[str]
    started: float = field(default_factory=lambda: datetime.now(UTC).timestamp())

    def send(self, state: str, facets: Mapping[str, object], writes: list["Dataset"]) -> None:
        from openlineage.client import event_v2 as api

        self.client.emit(
            api.RunEvent(
                eventType=api.RunState[state],
                eventTime=datetime.now(UTC).isoformat(),
                run=api.Run(self.id, dict(facets)),
                job=api.Job(namespace(), self.verb, job_facets(self.verb)),
                inputs=self.reads,
                outputs=writes,
                producer=PRODUCER,
            )
        )


@contextmanager
def recorded(verb: str, arguments: Mapping[str, object]) -> Iterator[None]:
    """Send how a run of the verb starts and ends; stages that it runs name it as their parent."""
    run = None
    before = os.environ.get(PARENT)
    with warned():
        run = begin(verb, arguments)
    if run:
        os.environ[PARENT] = f"{namespace()}/{verb}/{run.id}"
    state, said, code = "COMPLETE", "", 0
    try:
        yield
    except Failure as failure:
        state, said, code = "FAIL", f"{failure.word}: {failure}", failure.code
        raise
    except KeyboardInterrupt:
        state, code = "ABORT", 130
        raise
    except BaseException as error:
        state, said, code = "FAIL", f"{type(error).__name__}: {error}", 1
        raise
    finally:
        os.environ.pop(PARENT, None)
        if before:
            os.environ[PARENT] = before
        if run:
            with warned():
                end(run, state, said, code)


@contextmanager
def warned() -> Iterator[None]:
    """Turn whatever goes wrong into one warning: the verb does not depend on it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(f"warning: lineage is not sent: {redacted(reason)}", file=sys.stderr)


def begin(verb: str, arguments: Mapping[str, object]) -> Run | None:
    """Send the start of a run; None for a verb that neither reads nor makes data."""
    reads, writes = VERBS.get(verb) or of_stage(verb)
    if not reads and not writes:
        return None
    client = open_client()
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.uuid import generate_new_uuid

    places = {SOURCE: "source", TARGET: "target", FILE: "file"}
    named = {key: str(arguments[name]) for key, name in places.items() if name in arguments}
    writes = [named.get(place, place) for place in writes]
    found = [dataset(named.get(place, place), InputDataset) for place in reads]
    run = Run(client, verb, str(generate_new_uuid()), found, writes)
    run.send("START", run_facets(), [])
    return run


def end(run: Run, state: str, said: str, code: int) -> None:
    """Send the end of a run; it made the files that changed since it began."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import error_message_run

    facets = run_facets() | {"tags": tags({**lineage(), "exit_code": str(code)})}
    if said:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(redacted(said), "python")
    made = [dataset(place, OutputDataset) for place in run.writes if is_newer(place, run.started)]
    run.send(state, facets, made)
    run.client.close(PATIENCE)


def open_client() -> "OpenLineageClient":
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import set_producer
        from openlineage.client.transport.http import HttpTransport
    except ModuleNotFoundError:
        raise Failure("openlineage-python is not installed: uv sync --group lineage") from None
    config = os.environ.get("OPENLINEAGE_CONFIG")
    if config and not Path(config).is_file():  # the client would print the events instead
        raise Failure(f"OPENLINEAGE_CONFIG: {config} is not there")
    set_producer(PRODUCER)
    client = OpenLineageClient()
    if isinstance(client.transport, HttpTransport):
        client.transport.timeout = min(client.transport.timeout, PATIENCE)
        client.transport.config.retry = client.transport.config.retry | {"total": 0}
    return client


def namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or current_project().name


def run_facets() -> dict[str, object]:
    from openlineage.client.facet_v2 import parent_run, processing_engine_run

    engine = processing_engine_run.ProcessingEngineRunFacet(VERSION, "mlops-loop")
    facets: dict[str, object] = {"processing_engine": engine, "tags": tags(lineage())}
    if parent := os.environ.get(PARENT):
        where, job, run = [*parent.rsplit("/", 2), "", ""][:3]
        if not run:
            raise Failure(f"{PARENT}: {parent!r} is not namespace/job/run")
        facets["parent"] = parent_run.ParentRunFacet(
            parent_run.Run(run), parent_run.Job(where, job)
        )
    return facets


def tags(facts: Mapping[str, str]) -> object:
    from openlineage.client.facet_v2 import tags_run

    found = [tags_run.TagsRunFacetFields(*fact, "mlops-loop") for fact in facts.items() if fact[1]]
    return tags_run.TagsRunFacet(found)


def job_facets(verb: str) -> dict[str, object]:
    from openlineage.client.facet_v2 import job_type_job, source_code_location_job

    kind = job_type_job.JobTypeJobFacet(
        "SERVICE" if verb == "serve" else "BATCH", "MLOPS_LOOP", "COMMAND"
    )
    url = origin() or Path.cwd().as_uri()
    code = source_code_location_job.SourceCodeLocationJobFacet(
        "git", url, repoUrl=url, version=lineage()["git_commit"] or None
    )
    return {"jobType": kind, "sourceCodeLocation": code}


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
