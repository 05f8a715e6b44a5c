"""Servers: this project's and what one would use instead, each with the same fitted pipeline.

Each is used as its documentation shows: with its own format of requests, one worker, and an
environment of its own, with the project's versions of the libraries that run the pipeline.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measured import requests, write_sent
from mlops_loop.base.files import MODEL
from mlops_loop.base.project import trusted_types
from mlops_loop.contract.schema import load_schema
from mlops_loop.release.smoke_test.server import serving_command
from mlops_loop.scoring import skops_model

APPS = Path(__file__).with_name("apps")
SHARED = ("numpy", "pandas", "scikit-learn", "scipy", "skops")
MLSERVER = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22")  # crashes with 0.23
OURS, SENT, TWO, UNLOGGED = "this project", "values sent", "two workers", "no log"
FEW = 8  # connections at which the model is measured that is sent what it derives
VARIED = 32  # connections at which the variants are measured
PORT = "PORT"  # in a command and an environment, stands for the port
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Server:
    name: str
    home: Path  # its environment
    command: list[str]
    path: str  # that takes predictions
    body: Callable[[Rows], Any]
    scores: Callable[[Any], Any]  # from an answer: a number for each row and class
    environment: dict[str, str] = field(default_factory=dict)
    connections: tuple[int, ...] = ()  # it is measured at these alone; all, if there are none
    log: bool = False  # it logs its predictions in SQLite


def binary(home: Path, name: str) -> str:
    """Return the path of a program in an environment."""
    return str(home / ("Scripts" if os.name == "nt" else "bin") / name)


def environment(name: str, requirements: list[str], folder: Path) -> Path:
    """Return an environment with the requirements, from an earlier run if they are the same."""
    home = folder / name
    wanted, done = "\n".join(requirements), home / "requirements.txt"
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return home
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if name == "mlserver" and sys.version_info >= (3, 13):
        python = "3.12"  # the last that it installs on
    shutil.rmtree(home, ignore_errors=True)
    run(["uv", "venv", "--quiet", "--python", python, str(home)])
    run(["uv", "pip", "install", "--quiet", "--python", binary(home, "python"), *requirements])
    done.write_text(wanted, encoding="utf-8")
    return home


def run(command: list[str], **settings: str) -> None:
    """Run a command; raise RuntimeError, with what it said last, if it fails."""
    found = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if found.returncode:
        said = " ".join((found.stderr or found.stdout).split()[-60:])
        raise RuntimeError(f"{Path(command[0]).name} {command[1]} fails: {said}")


def fitted(folder: Path) -> None:
    """Write the pipeline, and what an app must know of it, to a folder."""
    contract = load_schema()
    facts = {
        "columns": list(contract.features),
        "numbers": contract.numeric,
        "categories": contract.categorical,
        "trusted": trusted_types(),
        "method": "predict_proba" if contract.classes else "predict",
    }
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODEL, folder / "model.skops")
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def rows(count: int) -> tuple[Rows, np.ndarray]:
    """Return rows of the test window that keep the contract, and the fitted pipeline's scores."""
    schema = load_schema()
    found, table = requests(schema, count)
    return found, skops_model.scores(skops_model.load(MODEL), table, schema)


def body_of(names: Collection[str]) -> Callable[[Rows], dict[str, Rows]]:
    """Return what makes a request with these columns."""
    return lambda rows: {"rows": [{name: row[name] for name in names} for row in rows]}


def ours(package: str, work: Path) -> list[Server]:
    """Return this project's server, with validation and the durable log on, and its variants."""
    schema = load_schema()
    classes = schema.classes
    command = serving_command()
    home = command.parents[1]
    derives = body_of(schema.inputs)
    sent = {"BUNDLE": str(write_sent(work / "sent"))}

    def scores(answer: Any) -> Any:
        found = answer["predictions"]
        if not classes:
            return [[row["value"]] for row in found]
        return [[row["probabilities"][name] for name in classes] for row in found]

    def server(name: str, log: bool, connections: tuple[int, ...], *words: str) -> Server:
        line = [*words, "--port", PORT]
        return Server(name, home, line, "/v1/predict", derives, scores, {}, connections, log)

    serve = str(command), "serve"
    unlogged = binary(home, "python"), str(APPS / "unlogged.py"), package, "serve"
    receives = {"body": body_of(schema.features), "environment": sent}
    return [
        server(OURS, True, (), *serve),
        replace(server(SENT, True, (FEW,), *serve), **receives),
        server(TWO, True, (VARIED,), *serve, "--workers", "2"),
        server(UNLOGGED, False, (VARIED,), *unlogged),
    ]


def features() -> Callable[[Rows], dict[str, Rows]]:
    """Return what makes a request to a server that derives nothing."""
    return body_of(load_schema().features)


def mlflow(shared: list[str], folder: Path, pipeline: Path) -> Server:
    home = environment("mlflow", [f"mlflow=={version('mlflow')}", *shared], folder)
    model = folder / "mlflow-model"
    shutil.rmtree(model, ignore_errors=True)
    run([binary(home, "python"), str(APPS / "mlflow_model.py"), str(model)], FITTED=str(pipeline))

    def body(rows: Rows) -> Any:
        names = list(load_schema().features)
        data = [[row[name] for name in names] for row in rows]
        return {"dataframe_split": {"columns": names, "data": data}}

    def scores(answer: Any) -> Any:
        return answer["predictions"]

    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", PORT, "--workers", "1"]
    command = [binary(home, "mlflow"), "models", "serve", "--model-uri", str(model), *options]
    return Server("mlflow models serve", home, command, "/invocations", body, scores)


def mlserver(shared: list[str], folder: Path, pipeline: Path) -> Server:
    home = environment("mlserver", [*MLSERVER, *shared], folder)
    model = folder / "mlserver-model"
    run([binary(home, "python"), str(APPS / "mlserver_model.py"), str(model)], FITTED=str(pipeline))
    facts = json.loads((pipeline / "facts.json").read_text(encoding="utf-8"))

    def column(name: str, values: list[Any]) -> dict[str, Any]:
        found = {"name": name, "shape": [len(values), 1], "data": values}
        if name in facts["numbers"]:
            return found | {"datatype": "FP32"}
        return found | {"datatype": "BYTES", "parameters": {"content_type": "str"}}

    def body(rows: Rows) -> Any:
        inputs = [column(name, [row[name] for row in rows]) for name in facts["columns"]]
        outputs = [{"name": facts["method"]}]
        return {"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": outputs}

    def scores(answer: Any) -> Any:
        found = answer["outputs"][0]
        return np.reshape(found["data"], found["shape"])

    # A port of its own for gRPC and for metrics: any that is free.
    settings = {f"MLSERVER_{name}_PORT": "0" for name in ("GRPC", "METRICS")}
    settings |= {"MLSERVER_HTTP_PORT": PORT, "MLSERVER_HOST": "127.0.0.1"}
    command = [binary(home, "mlserver"), "start", str(model)]
    return Server("MLServer", home, command, "/v2/models/fitted/infer", body, scores, settings)


def bentoml(shared: list[str], folder: Path, pipeline: Path) -> Server:
    home = environment("bentoml", ["bentoml>=1.4", *shared], folder)
    settings = {"BENTOML_HOME": str(folder / "bentoml-home"), "BENTOML_DO_NOT_TRACK": "True"}
    options = ["--working-dir", str(APPS), "--host", "127.0.0.1", "--port", PORT]
    command = [binary(home, "bentoml"), "serve", "bento:Fitted", *options]
    return Server("BentoML", home, command, "/predict", features(), np.asarray, settings)


def plain(shared: list[str], folder: Path, pipeline: Path) -> Server:
    home = environment("plain", ["fastapi>=0.115", "uvicorn[standard]>=0.32", *shared], folder)
    options = ["--app-dir", str(APPS), "--port", PORT, "--no-access-log"]
    command = [binary(home, "uvicorn"), "plain:app", *options]

    def scores(answer: Any) -> Any:
        return answer["scores"]

    return Server("FastAPI + pandas", home, command, "/predict", features(), scores)


PEERS = {
    "mlflow models serve": mlflow,
    "MLServer": mlserver,
    "BentoML": bentoml,
    "FastAPI + pandas": plain,
}


def install(folder: Path, pipeline: Path) -> tuple[list[Server], dict[str, str]]:
    """Return the other servers, and for those that cannot be installed the reason."""
    shared = [f"{name}=={version(name)}" for name in SHARED]
    found, absent = list[Server](), dict[str, str]()
    for name, make in PEERS.items():
        try:
            found.append(make(shared, folder, pipeline))
        except RuntimeError as error:
            absent[name] = str(error)
    return found, absent


def size(home: Path) -> float:
    """Return what an environment takes, in MiB, without bytecode caches and the interpreter."""
    files = (path for path in home.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.lstat().st_size for path in files) / 2**20
