"""Lineage: each run of a verb as OpenLineage events, where OPENLINEAGE_URL or the like asks for it.

The events say what `trace` says: commit, dvc.lock, the hashes of data and bundle, the version. A
receiver that is away costs a second or two and one warning: the verb itself goes on.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.work_tree import lineage, origin
from mlops_loop.contract.versions import VERSION
from mlops_loop.release.datasets import (
    FILE,
    SOURCE,
    TARGET,
    VERBS,
    dataset,
    is_newer,
    namespace,
    of_stage,
)

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Dataset

PRODUCER = f"pkg:pypi/mlops-loop@{VERSION}"
PARENT = "OPENLINEAGE_PARENT_ID"  # namespace/job/run, as other integrations have it
PATIENCE = 2.0  # seconds; the client's own are 5, five times over


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
        once = {"total": 0, "status_forcelist": ()}
        client.transport.config.retry = client.transport.config.retry | once
    return client


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
