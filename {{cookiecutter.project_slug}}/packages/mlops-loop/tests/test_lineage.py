"""Lineage: what verbs send to a file and to a server, and that they go on without one."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.cli.app import named
from mlops_loop.release import lineage
from mlops_loop.release.datasets import names
from mlops_loop.release.lineage import PARENT, recorded

from .conftest import ROOT, change
from .test_trace import SLOW

if not find_spec("openlineage"):
    pytest.skip("the group lineage is not installed", allow_module_level=True)

EVENTS = Path("events.jsonl")
RUN = "0197a6d3-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    for variable in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(variable)


def to_file(patch: pytest.MonkeyPatch) -> None:
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(EVENTS), "APPEND": "true"}.items():
        patch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the stages of dvc.yaml."""
    monkeypatch.chdir(tmp_path)
    for name in (files.SCHEMA, files.PARAMS, files.DVC):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def split() -> None:
    """What the verb writes."""
    with recorded("split", {}):
        files.TRAIN.parent.mkdir(exist_ok=True)
        for path in files.OUTPUTS:
            path.write_bytes(b"rows")


class Receiver(HTTPServer):
    """A server that keeps what it is sent, and answers a status."""

    def __init__(self, status: int = 201) -> None:
        self.status = status
        self.received: list[tuple[str, str, dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("Authorization", "")
        self.server.received.append((self.path, key, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(params=[201])
def receiver(folder, request, monkeypatch) -> Iterator[Receiver]:
    server = Receiver(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()


def run(*verb: str) -> Any:
    return CliRunner().invoke(named("flight-delays"), list(verb))


def events() -> list[dict[str, Any]]:
    found = [json.loads(line) for line in EVENTS.read_text("utf-8").splitlines()]
    for event in found:
        assert event["schemaURL"].endswith("#/$defs/RunEvent")
        assert event["producer"].startswith("pkg:pypi/mlops-loop@")
        UUID(event["run"]["runId"])
        facets = [*event["run"]["facets"].values(), *event["job"]["facets"].values()]
        for data in (*event["inputs"], *event["outputs"]):
            facets += data["facets"].values()
        assert all(one["_producer"] == event["producer"] for one in facets)
        assert all("/spec/facets/" in one["_schemaURL"] for one in facets)
    return found


def named_in(datasets: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return the version of each dataset."""
    return {one["name"]: one["facets"].get("version", {}).get("datasetVersion") for one in datasets}


def test_the_way_of_a_row_is_one_chain(project, monkeypatch) -> None:
    to_file(monkeypatch)
    shutil.copy(ROOT / files.DVC, project)
    change(files.PARAMS, "gates", **SLOW)
    monkeypatch.setenv("BUNDLE", "build/champion")
    for verb in (("split",), ("promote",), ("score", str(files.TEST), "out.parquet")):
        done = run(*verb)
        assert done.exit_code == 0, (done.output, done.exception)
    run("doctor")  # neither reads nor makes data
    found = events()
    assert [event["job"]["name"] for event in found] == [
        *("split", "split", "promote", "promote", "score", "score")
    ]
    assert [event["eventType"] for event in found] == ["START", "COMPLETE"] * 3
    split, promote, score = found[1::2]
    assert split["run"]["runId"] == found[0]["run"]["runId"] != promote["run"]["runId"]
    assert found[0]["outputs"] == []
    made = named_in(split["outputs"])
    assert made == {str(path): files.sha256(path) for path in files.OUTPUTS if path != files.RAW}
    assert named_in(split["inputs"])["data/raw.parquet"] == files.sha256(files.RAW)
    fields = split["outputs"][0]["facets"]["schema"]["fields"]
    assert {"name": "distance", "type": "number"}.items() <= fields[-1].items() or len(fields) > 5
    bundle, (model,) = named_in(promote["inputs"]), promote["outputs"]
    assert bundle == {"build/bundle": files.sha256(files.BUNDLE / "bundle.json")}
    assert model["name"].startswith("models:/test-")
    assert named_in([model]) == {model["name"]: "1"}
    assert named_in(score["inputs"]) == {
        "data/test.parquet": made["data/test.parquet"],
        model["name"]: "1",
    }
    assert named_in(score["outputs"]) == {"out.parquet": files.sha256(Path("out.parquet"))}
    assert {one["namespace"] for one in score["inputs"]} == {split["job"]["namespace"]}
    tags = {tag["key"]: tag["value"] for tag in score["run"]["facets"]["tags"]["tags"]}
    assert tags["exit_code"] == "0"
    assert score["job"]["facets"]["sourceCodeLocation"]["type"] == "git"


def test_a_failure_and_a_refusal_reach_the_server(receiver, monkeypatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", receiver.url.replace("user:secret@", ""))
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "a/b")
    ends: list[BaseException] = [Failure("x"), Refusal("y"), KeyError("z"), KeyboardInterrupt()]
    for end in ends:
        with pytest.raises(type(end)), recorded("split", {}):
            raise end
    assert {(path, key) for path, key, _ in receiver.received} == {("/api/v1/lineage", "Bearer k")}
    sent = [event for _, _, event in receiver.received]
    assert [event["eventType"] for event in sent[::2]] == ["START"] * 4
    assert [event["eventType"] for event in sent[1::2]] == ["FAIL", "FAIL", "FAIL", "ABORT"]
    assert {event["job"]["namespace"] for event in sent} == {"a/b"}
    facets = [event["run"]["facets"] for event in sent[1::2]]
    said = [one.get("errorMessage", {}).get("message") for one in facets]
    assert said == ["error: x", "refused: y", "KeyError: 'z'", None]
    codes = [
        tag["value"] for one in facets for tag in one["tags"]["tags"] if tag["key"] == "exit_code"
    ]
    assert codes == ["1", "3", "1", "130"]
    assert [event["outputs"] for event in sent] == [[]] * 8  # nothing was written


@pytest.mark.parametrize("receiver", [500, 401], indirect=True)
def test_a_server_that_refuses_is_one_warning(receiver, capsys) -> None:
    split()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: lineage is not sent: {receiver.status} ")
    assert "secret" not in warning
    assert len(receiver.received) == 1  # neither tried again, nor sent the end


AWAY = {
    "OPENLINEAGE_URL": ("http://127.0.0.1:9", "127.0.0.1"),
    "OPENLINEAGE_CONFIG": ("no-such-file.yml", "no-such-file.yml is not there"),
    "OPENLINEAGE__TRANSPORT__TYPE": ("pigeon", "pigeon"),
}


@pytest.mark.parametrize("variable", AWAY)
def test_without_a_receiver_the_verb_goes_on(folder, monkeypatch, capsys, variable) -> None:
    value, said = AWAY[variable]
    monkeypatch.setenv(variable, value)
    split()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: lineage is not sent: ")
    assert said in warning


def test_without_the_package_a_line_says_how_to_install_it(folder, monkeypatch, capsys) -> None:
    to_file(monkeypatch)
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    split()
    assert "uv sync --group lineage" in capsys.readouterr().err
    assert not EVENTS.exists()


def test_it_is_off_unless_it_is_asked_for(folder, monkeypatch) -> None:
    monkeypatch.setattr(lineage, "recorded", None)
    assert run("schema", "check", "schema.yaml", "schema.yaml").exit_code == 0
    to_file(monkeypatch)
    done = run("schema", "check", "schema.yaml", "schema.yaml")
    assert isinstance(done.exception, TypeError)


def test_what_a_run_starts_names_it_as_its_parent(folder, monkeypatch) -> None:
    to_file(monkeypatch)
    monkeypatch.setenv(PARENT, f"airflow/dag.task/{RUN}")
    with recorded("retrain", {}):
        split()
    assert os.environ[PARENT] == f"airflow/dag.task/{RUN}"
    outer, inner, *_ = events()
    parent = outer["run"]["facets"]["parent"]
    assert (parent["job"]["namespace"], parent["job"]["name"]) == ("airflow", "dag.task")
    assert parent["run"]["runId"] == RUN
    assert inner["run"]["facets"]["parent"]["run"]["runId"] == outer["run"]["runId"]
    assert [event["job"]["name"] for event in events()] == ["retrain", "split", "split", "retrain"]


def test_a_parent_that_cannot_be_read_is_a_warning(folder, monkeypatch, capsys) -> None:
    to_file(monkeypatch)
    monkeypatch.setenv(PARENT, "nonsense")
    split()
    assert f"{PARENT}: 'nonsense'" in capsys.readouterr().err
    assert os.environ[PARENT] == "nonsense"


PLACES = {
    "data/raw.parquet": ("p", "data/raw.parquet"),
    "/elsewhere/a.csv": ("file", "/elsewhere/a.csv"),
    "s3://bucket/a/b.parquet": ("s3://bucket", "a/b.parquet"),
    "https://u:p@host/a.csv?sig=s": ("https://host", "a.csv"),
    "postgresql+psycopg://u:p@db:5432/log": ("postgres://db:5432", "log"),
    "sqlite:///predictions.db": ("p", "predictions.db"),
    "models:/flights": ("p", "models:/flights"),
}


@pytest.mark.parametrize(("place", "expected"), PLACES.items())
def test_places_have_the_names_that_openlineage_gives_them(place, expected, monkeypatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "p")
    assert names(place) == expected
    assert names(str(Path("a.csv").resolve())) == ("p", "a.csv")
