"""Runs and schedules, as the API of Kubeflow Pipelines gets them: here a stand-in takes them."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml
from conftest import set_remote
from mlops_loop.base.errors import Failure
from typer.testing import CliRunner

from mlops_loop_kubeflow.cli import VERBS
from mlops_loop_kubeflow.submit import submit

IMAGE = "registry/small:1"


class Kubeflow(BaseHTTPRequestHandler):
    """The part of the API that `submit` uses."""

    asked: ClassVar[list[tuple[str, str, Any]]] = []
    schedules: ClassVar[dict[str, str]] = {}
    refuse: ClassVar[int] = 0

    def answer(self) -> None:
        kind = self.path.partition("?")[0].removeprefix("/apis/v2beta1/")
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        self.asked.append((self.command, kind, body))
        found: dict[str, Any] = {}
        if (self.command, kind) == ("GET", "recurringruns"):
            runs = [{"recurring_run_id": i, "display_name": n} for i, n in self.schedules.items()]
            found = {"recurringRuns": runs}
        elif self.command == "POST":
            found = {"experiment_id": "e1", "run_id": "r1", "recurring_run_id": "s1"}
        elif self.command == "DELETE":
            self.schedules.pop(kind.rpartition("/")[2])
        text = json.dumps(found).encode()
        self.send_response(self.refuse if self.refuse and kind != "healthz" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def endpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(project.parent))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    set_remote("s3://bucket/data")
    Kubeflow.asked.clear()
    Kubeflow.schedules.clear()
    Kubeflow.refuse = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def posted(kind: str) -> Any:
    (body,) = [
        body for command, asked, body in Kubeflow.asked if (command, asked) == ("POST", kind)
    ]
    return body


def test_a_run(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    submit(endpoint, "team", IMAGE, None, cached=True)
    assert "run r1 is submitted" in capsys.readouterr().out
    assert posted("experiments")["display_name"] == "small"
    assert posted("experiments")["namespace"] == "team"
    spec = posted("runs")["pipeline_spec"]["pipeline_spec"]
    assert spec["root"]["dag"]["tasks"]["copy"]["cachingOptions"] == {"enableCache": True}
    assert spec["deploymentSpec"]["executors"]["exec-copy"]["container"]["image"] == IMAGE


def test_a_run_of_every_step(endpoint: str) -> None:
    submit(endpoint, "team", IMAGE, None, cached=False)
    spec = posted("runs")["pipeline_spec"]["pipeline_spec"]
    assert {str(task["cachingOptions"]) for task in spec["root"]["dag"]["tasks"].values()} == {"{}"}


def test_a_schedule_replaces_the_one_before(
    endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Kubeflow.schedules.update({"old": "small", "theirs": "another"})
    submit(endpoint, "team", IMAGE, "43 6 * * *", cached=True)
    assert "recurring run s1 is set to '43 6 * * *'" in capsys.readouterr().out
    made = posted("recurringruns")
    assert made["trigger"]["cron_schedule"]["cron"] == "0 43 6 * * *"
    assert made["no_catchup"]
    assert Kubeflow.schedules == {"theirs": "another"}
    order = [command for command, kind, _ in Kubeflow.asked if kind.startswith("recurringruns")]
    assert order == ["GET", "POST", "DELETE"]  # there is always one


def test_refused_by_the_server(endpoint: str) -> None:
    Kubeflow.refuse = 403
    with pytest.raises(Failure, match=f"^Kubeflow at {endpoint} says 403") as failure:
        submit(endpoint, "team", IMAGE, None, cached=True)
    assert "\n" not in str(failure.value)


def test_no_server(project: Path) -> None:
    set_remote("s3://bucket/data")
    with pytest.raises(Failure, match=r"^Kubeflow at http://127.0.0.1:9 does not answer: "):
        submit("http://127.0.0.1:9", None, IMAGE, None, cached=True)
    with pytest.raises(Failure, match="which image"):
        submit("http://127.0.0.1:9", None, None, None, cached=True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["submit"], "--endpoint"),
        (["submit", "--endpoint", "kubeflow"], "is no URL"),
        (["submit", "--endpoint", "http://x", "--cron", "daily"], "must have five fields"),
        (["compile", "pipeline.txt"], "must end with .yaml"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(VERBS, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert line in done.output


def test_the_page_s_settings_are_taken(endpoint: str) -> None:
    """As docs/kubeflow.md has them, the image included."""
    page = Path(__file__).parents[3] / "docs/kubeflow.md"
    if not page.is_file():
        pytest.skip("the project's docs are elsewhere")
    block = page.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    settings = yaml.safe_load(block)
    settings["kubeflow"]["stages"] = {"copy": settings["kubeflow"]["stages"]["train"]}
    params = Path("params.yaml")
    params.write_text(params.read_text() + yaml.safe_dump(settings))
    submit(endpoint, None, None, None, cached=True)
    spec = posted("runs")["pipeline_spec"]["pipeline_spec"]
    used = spec["deploymentSpec"]["executors"]["exec-copy"]["container"]
    assert used["image"] == settings["kubeflow"]["image"]
    assert used["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
