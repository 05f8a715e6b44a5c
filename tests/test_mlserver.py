"""The bundle in MLServer, Seldon's server, as it is: its answers are those of our own server."""

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LEAKS, TEMPLATE, TREE, Project, copy, execute, serving
from servers import free_port, running
from test_inference_protocol import KEY, tools
from test_pipeline import held_out

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlserver")]

ROWS = 200
# Asks a server by REST or gRPC for label and probabilities of rows; prints them, or a refusal.
CLIENT = """
import json, sys
import numpy as np
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

way, address, name, key, rows = json.load(sys.stdin)
triton = {"rest": http, "grpc": grpc}[way]
client = triton.InferenceServerClient(address)
inputs = []
for column in rows[0]:
    values = [row[column] for row in rows]
    if any(isinstance(value, str) for value in values):
        kind = "BYTES"
        values = np.array([(value or "").encode() for value in values], dtype=object)
    else:
        kind, values = "FP64", np.array(values, dtype="f8")
    given = triton.InferInput(column, [len(rows)], kind)
    if way == "rest":
        given.set_data_from_numpy(values, binary_data=False)
        given._data = [None if x != x else x for x in given._data]  # the client would write NaN
    else:
        given.set_data_from_numpy(values)
    inputs.append(given)
options = {"headers": {"X-API-Key": key}} if way == "rest" else {}
names = "label", "probabilities", "prediction_id"
binary = {"binary_data": False} if way == "rest" else {}
options["outputs"] = [triton.InferRequestedOutput(name, **binary) for name in names]
try:
    found = client.infer(name, inputs, request_id="7", **options)
except InferenceServerException as error:
    print(json.dumps({"status": error.status(), "message": error.message()}))
    sys.exit()
texts = lambda name: [x.decode() if isinstance(x, bytes) else x for x in found.as_numpy(name)]
assert len(set(texts("prediction_id"))) == len(rows)
response = found.get_response(**({"as_json": True} if way == "grpc" else {}))
shares = found.as_numpy("probabilities").tolist()
print(json.dumps([texts("label"), shares, response["model_version"]]))
"""


@dataclass(frozen=True)
class MLServer:
    rest: str
    grpc: str
    models: Path
    log: Path

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return httpx.post(f"{self.rest}/v2/{path}", json=body or {}, timeout=60)

    def index(self) -> dict[str, str]:
        found = self.post("repository/index").raise_for_status().json()
        return {model["name"]: model["state"] for model in found}


@pytest.fixture(scope="module")
def project(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy(pipeline, tmp_path_factory.mktemp("mlserver"), promoted=True)


@pytest.fixture(scope="module")
def environment(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install what deploy/seldon/Dockerfile installs, by its own commands."""
    text = (TREE / "deploy/seldon/Dockerfile").read_text("utf-8").replace("\\\n", "")
    commands = [
        re.sub(r"^RUN( --mount=\S+)*", "", line) for line in text.splitlines() if "uv " in line
    ]
    folder = tmp_path_factory.mktemp("environment")
    shutil.copy(TREE / "deploy/seldon/requirements.txt", project.path)
    env = {"VIRTUAL_ENV": str(folder / "venv"), "SERVE_GROUP": "serve"}
    for command in commands[1:]:  # the first one is the image of uv
        command = command.replace("uv venv --quiet /venv", f"uv venv --quiet {folder}/venv")
        project.run("sh", "-euc", command, env=env)
    return folder / "venv"


@pytest.fixture(scope="module")
def mlserver(
    project: Project, environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MLServer]:
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(project.path / "build/champion", folder / "models/first")
    http, grpc, metrics = free_port(), free_port(), free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    env |= {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_PARALLEL_WORKERS": "0",
        "PREDICTION_LOG_URL": f"sqlite:///{folder}/predictions.db",
        "PREDICTION_SPOOL": str(folder / "spool"),
    }
    server = MLServer(
        f"http://127.0.0.1:{http}",
        f"127.0.0.1:{grpc}",
        folder / "models",
        folder / "predictions.db",
    )
    command = str(environment / "bin/mlserver"), "start", str(server.models)
    with running(http, *command, minutes=5, cwd=folder, env=env):
        for _ in range(3000):
            if httpx.get(f"{server.rest}/v2/models/{project.slug}/ready").status_code == 200:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the bundle is not loaded: {server.index()}")
        yield server


@pytest.fixture(scope="module")
def ours(project: Project) -> Iterator[str]:
    command = "uv", "run", project.slug, "serve"
    with serving(project, *command, API_KEYS=f"test:{KEY}") as address:
        yield address


def ask(way: str, address: str, name: str, rows: list[dict[str, Any]]) -> Any:
    given = way, address.removeprefix("http://"), name, KEY, rows
    done = execute(
        *(*tools("tritonclient[grpc,http]"), "python", "-W", "ignore", "-c", CLIENT),
        cwd=TEMPLATE,
        input=json.dumps(given),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_mlserver_answers_as_we_do_over_rest_and_grpc(
    project: Project, mlserver: MLServer, ours: str
) -> None:
    rows = held_out(project, ROWS)
    expected = ask("rest", ours, project.slug, rows)
    assert len(expected[0]) == ROWS
    assert expected[2] == "1"
    assert ask("rest", mlserver.rest, project.slug, rows) == expected
    assert ask("grpc", mlserver.grpc, project.slug, rows) == expected
    with sqlite3.connect(mlserver.log) as log:  # all of them are in the prediction log
        query = "SELECT model_version, count(*) FROM predictions GROUP BY 1"
        assert log.execute(query).fetchall() == [("1", 2 * ROWS)]


def test_both_name_the_same_inputs_and_outputs(
    project: Project, mlserver: MLServer, ours: str
) -> None:
    path = f"/v2/models/{project.slug}"
    said = [
        httpx.get(address + path, headers={"X-API-Key": KEY}).raise_for_status().json()
        for address in (ours, mlserver.rest)
    ]
    for part in ("inputs", "outputs"):
        found = [
            [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in one[part]]
            for one in said
        ]
        assert found[0] == found[1]


WRONG: list[dict[str, Any]] = [
    {"carrier": "??"},  # no category of the contract
    {"scheduled_departure": "yesterday"},
    {"surprise": 1.0},  # no column
    {"scheduled_departure": ""},  # missing
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_breaks_the_contract_is_refused_alike(
    project: Project, mlserver: MLServer, ours: str, wrong: dict[str, Any]
) -> None:
    (row,) = held_out(project, 1)
    rows = [row | wrong]
    expected = ask("rest", ours, project.slug, rows)
    assert expected["status"] == "422"
    assert ask("rest", mlserver.rest, project.slug, rows) == expected
    refused = ask("grpc", mlserver.grpc, project.slug, rows)
    assert refused == {"status": "StatusCode.FAILED_PRECONDITION", "message": expected["message"]}


def test_models_are_loaded_and_unloaded_as_seldons_agent_does(
    project: Project, mlserver: MLServer
) -> None:
    rows = held_out(project, 3)
    expected = ask("rest", mlserver.rest, project.slug, rows)
    # The agent copies the bundle, and writes name and version into model-settings.json.
    second = mlserver.models / "second"
    shutil.copytree(project.path / "build/champion", second)
    settings = json.loads((second / "model-settings.json").read_text("utf-8"))
    settings |= {"name": "flights_2", "parameters": settings["parameters"] | {"version": "2"}}
    (second / "model-settings.json").write_text(json.dumps(settings))
    assert mlserver.index() == {project.slug: "READY", "flights_2": "UNAVAILABLE"}
    assert mlserver.post("repository/models/flights_2/load").status_code == 200
    assert mlserver.index() == {project.slug: "READY", "flights_2": "READY"}
    assert ask("rest", mlserver.rest, "flights_2", rows) == expected

    assert mlserver.post("repository/models/flights_2/unload").status_code == 200
    assert ask("rest", mlserver.rest, "flights_2", rows)["status"] == "404"
    assert ask("grpc", mlserver.grpc, project.slug, rows) == expected
    assert mlserver.post("repository/models/flights_2/load").status_code == 200  # and once more
    assert ask("grpc", mlserver.grpc, "flights_2", rows) == expected
    assert mlserver.post("repository/models/flights_2/unload").status_code == 200
    shutil.rmtree(second)


def test_a_tampered_bundle_is_not_loaded(project: Project, mlserver: MLServer) -> None:
    third = mlserver.models / "third"
    shutil.copytree(project.path / "build/champion", third)
    with (third / "model.onnx").open("ab") as file:
        file.write(b"\0")
    settings = json.loads((third / "model-settings.json").read_text("utf-8"))
    (third / "model-settings.json").write_text(json.dumps(settings | {"name": "tampered"}))
    refused = mlserver.post("repository/models/tampered/load")
    assert refused.status_code == 422
    assert "model.onnx is missing or was changed after its export" in refused.text
    assert len(ask("rest", mlserver.rest, project.slug, held_out(project, 2))[0]) == 2
    shutil.rmtree(third)
