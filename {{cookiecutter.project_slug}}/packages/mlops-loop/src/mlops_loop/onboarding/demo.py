"""Demo: the whole way on real data - pipeline, promotion, server, traffic, monitor; then a year of it."""

import os
import time
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, METRICS, REPORTS, TEST
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.monitoring.monitor import monitor
from mlops_loop.release.gate_table import print_gates
from mlops_loop.release.promote import promote
from mlops_loop.release.smoke_test.server import server
from mlops_loop.scoring.bundle import open_bundle

ROWS, BATCH = 2000, 100  # held-out rows sent as traffic, and rows in a request
LOG = Path("build/demo-server.log")
console = Console(highlight=False)


def traffic(address: str, client: requests.Session) -> list[dict[str, Any]]:
    """Send held-out rows to the API; return what it answered for each."""
    rows = tables.as_json(tables.read_sample(TEST, ROWS), load_schema())
    answers: list[dict[str, Any]] = []
    for first in track(range(0, len(rows), BATCH), "held-out rows over HTTP", console=console):
        answer = client.post(f"{address}/v1/predict", json={"rows": rows[first : first + BATCH]})
        answer.raise_for_status()
        answers += answer.json()["predictions"]
    return answers


def judge() -> tuple[str, str]:
    """Return what the monitor says of the traffic, and where its page is."""
    found = monitor()
    about = f"in {found['rows']:,} predictions"
    if few := found["not_judged"].get("drift"):
        return few, found["report"]
    alarms = ", ".join(alarm["rule"].partition(": ")[2] for alarm in found["alarms"])
    verdict = (
        f"{' and '.join(found['verdicts'])} {about}: {alarms}" if alarms else f"no drift {about}"
    )
    return verdict, found["report"]


def demo() -> None:
    """Run everything once.

    Raises a Failure where registry or log are shared: its promotions and its traffic are not for those.
    """
    settings = load_settings()
    shared = {
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MLFLOW_REGISTRY_URI": os.environ.get("MLFLOW_REGISTRY_URI")
        or settings.mlflow_tracking_uri,
        "PREDICTION_LOG_URL": settings.prediction_log_url,
    }
    for name, url in shared.items():
        if not url.startswith("sqlite:"):
            raise Failure(
                f"{name} names a server: the demo would promote, or log its traffic, there; unset it"
            )
    once()


def once() -> None:
    """Run everything once, then say what came of it and where to look next."""
    console.rule("pipeline: dvc repro")
    seconds = reproduce()
    console.rule("promote, serve, monitor")
    started, serves = time.monotonic(), Path(load_settings().bundle)
    try:
        promotion = promote()
        print_gates(promotion.gates)
        promotion.checked()
    except Refusal as refusal:
        if not serves.exists() or open_bundle(serves).schema.target != load_schema().target:
            serves = BUNDLE
        stays = (
            "what there is goes on serving"
            if serves != BUNDLE
            else "it is served here all the same"
        )
        console.print(f"The gate says no, {stays}: {refusal}")
    with server(serves, load_settings().prediction_log_url, LOG) as (address, client):
        version = client.get(f"{address}/v1/model").json()["version"]
        answers = traffic(address, client)
    verdict, report = judge() if serves != BUNDLE else ("none, as there is no champion", "none")
    seconds["promote, serve, monitor"] = time.monotonic() - started

    metrics, last = files.read_json(METRICS), answers[-1]
    table = Table(
        "what", Column("result", overflow="fold"), title="What came of it, where to look next"
    )
    for stage, taken in seconds.items():
        table.add_row(f"{stage}, seconds", f"{taken:.1f}")
    for name, value in metrics["test"].items():
        if name != "rows":
            table.add_row(
                f"{name} (naive baseline)", f"{value:.4f} ({metrics['baseline'][name]:.4f})"
            )
    for what, result in {
        "candidate"
        if serves == BUNDLE
        else "champion": f"{current_project().name} version {version}",
        "one prediction": "\n".join(
            f"{name} {format_value(value)}" for name, value in last.items()
        ),
        "monitor": verdict,
        "data checks": f"{REPORTS}/data/validation.html",
        "evaluation": f"{REPORTS}/evaluation.html",
        "monitor's page": report,
        "model card": f"{serves}/card.html",
        "runs and versions": f"uv run mlflow ui --backend-store-uri {load_settings().mlflow_tracking_uri}",
        "API": f"uv run {current_project().name} serve  then  http://127.0.0.1:8000/docs",
    }.items():
        table.add_row(what, escape(result))
    console.print(table)


def format_value(value: Any) -> str:
    """Return a part of an answer in few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
