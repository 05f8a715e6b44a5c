"""Demo: the whole way on real data - pipeline, promotion, server, traffic, monitor."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from . import NAME, files
from .errors import Failure, Refusal
from .files import METRICS, REPORTS, TEST
from .monitor import monitor
from .promote import promote

ROWS, BATCH = 2000, 100  # held-out rows sent as traffic, and rows in a request
LOG = Path("build/demo-server.log")
console = Console(highlight=False)


def reproduce() -> dict[str, float]:
    """Run the pipeline, showing what it says; return the seconds that each stage took."""
    command, both = [sys.executable, "-m", "dvc", "repro"], subprocess.STDOUT
    started, refused = dict[str, float](), False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=both, text=True) as dvc:
        for line in dvc.stdout or ():
            console.print(line.rstrip(), style="dim", markup=False, soft_wrap=True)
            refused |= "exited with 3" in line
            if line.startswith("Running stage '"):
                started[line.split("'")[1]] = time.monotonic()
    if dvc.returncode:
        raise (Refusal if refused else Failure)("the pipeline stopped, see above")
    ends = [*started.values(), time.monotonic()][1:]
    return {stage: end - begin for (stage, begin), end in zip(started.items(), ends, strict=False)}


@contextmanager
def server() -> Iterator[tuple[str, requests.Session]]:
    """Run the real server on a free loopback port; give its address and a client with a key."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", f"{__package__}.cli", "serve", "--port", port]
    client, address = requests.Session(), f"http://127.0.0.1:{port}"
    client.trust_env = False  # no proxy
    client.headers["X-API-Key"] = key = secrets.token_urlsafe(16)
    with LOG.open("w") as log:
        environment = os.environ | {"API_KEYS": f"demo:{key}"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                client.get(f"{address}/health/ready").raise_for_status()
                break
            except requests.ConnectionError:
                if process.poll() is not None:
                    raise Failure(f"the server stopped: see {LOG}") from None
                time.sleep(0.1)
        else:
            raise Failure(f"the server was not ready within a minute: see {LOG}")
        yield address, client
    finally:
        process.terminate()
        process.wait(timeout=30)


def demo() -> None:
    """Run everything, then say what came of it and where to look next."""
    console.rule("pipeline: dvc repro")
    seconds = reproduce()
    console.rule("promote, serve, monitor")
    started = time.monotonic()
    try:
        promote()
    except Refusal as refusal:
        console.print(f"The gate says no, the champion goes on serving: {refusal}")
    with server() as (address, client):
        version = client.get(f"{address}/v1/model").json()["version"]
        row = client.get(f"{address}/openapi.json").json()["components"]["schemas"]["Row"]
        test = files.read_table(TEST)[list(row["properties"])]
        sample = test.sample(min(ROWS, len(test)), random_state=0).to_json(orient="records")
        rows = json.loads(sample)
        for first in track(range(0, len(rows), BATCH), "held-out rows over HTTP", console=console):
            answer = client.post(f"{address}/v1/predict", json={"rows": rows[first : first + BATCH]})
            answer.raise_for_status()
    found, last = monitor(), answer.json()["predictions"][-1]
    seconds["promote, serve, monitor"] = time.monotonic() - started

    metrics = files.read_json(METRICS)
    shares = ", ".join(f"{name} {share:.3f}" for name, share in last["probabilities"].items())
    drifted = [name for name, column in found["columns"].items() if column["drifted"]]
    verdict = f"{'drift' if found['drift'] else 'no drift'} in {found['rows']:,} predictions: "
    verdict += (
        f"{len(drifted)} of {len(found['columns'])} columns differ, limit {found['drift_share_limit']:.0%}"
    )
    table = Table("what", Column("result", overflow="fold"), title="What came of it, where to look next")
    for stage, taken in seconds.items():
        table.add_row(f"{stage}, seconds", f"{taken:.1f}")
    for name in ("roc_auc", "average_precision", "brier", "log_loss", "calibration_error"):
        model, naive = metrics["test"][name], metrics["baseline"][name]
        table.add_row(f"{name} (naive baseline)", f"{model:.4f} ({naive:.4f})")
    for what, result in {
        "champion": f"{NAME} version {version}",
        "one prediction": f"{last['label']} ({shares})\nid {last['id']}",
        "monitor": f"{verdict} ({', '.join(drifted)})",
        "data checks": f"{REPORTS}/data/validation.html",
        "evaluation": f"{REPORTS}/evaluation.html",
        "drift report": found["report"],
        "model card": "build/champion/card.md",
        "runs and versions": "uv run mlflow ui --backend-store-uri sqlite:///mlflow.db",
        "API": f"uv run {NAME} serve  then  http://127.0.0.1:8000/docs",
    }.items():
        table.add_row(what, result)
    console.print(table)
