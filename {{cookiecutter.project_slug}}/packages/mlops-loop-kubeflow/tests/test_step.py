"""Steps, each in a fresh copy of the project as a pod has it: data comes by the remote alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import set_remote
from dvc.utils.serialize import dumps_yaml
from mlops_loop.base.errors import Failure

from mlops_loop_kubeflow.remote import fetch, publish
from mlops_loop_kubeflow.stages import artifacts, code_hash, load_stages, run_key, stage_params
from mlops_loop_kubeflow.step import run_step

KINDS = {"Metrics": "system.Metrics", "HTML": "system.HTML"}


def dvc(*args: str) -> str:
    command = [sys.executable, "-m", "dvc", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def executor_input(name: str, out: Path, entries: dict[str, Any]) -> str:
    """Return what Kubeflow gives a step."""
    shown = {
        one: {
            "artifacts": [{"name": one, "type": {"schemaTitle": KINDS[kind]}, "uri": f"s3://{one}"}]
        }
        for one, (kind, _) in artifacts(load_stages()[name]).items()
    }
    outputs = {"parameters": {"entry": {"outputFile": str(out / "entry")}}, "artifacts": shown}
    inputs = {f"from_{one}": json.dumps({one: entry}) for one, entry in entries.items()}
    outputs["outputFile"] = str(out / "output.json")
    return json.dumps({"inputs": {"parameterValues": inputs}, "outputs": outputs})


@pytest.fixture
def pod(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a step in a fresh copy, and returns the entry it hands on."""
    image = project.with_name("image")
    shutil.copytree(project, image)

    def run(name: str, entries: dict[str, Any], out: Path | None = None) -> dict[str, Any]:
        stages = load_stages()
        given = (code_hash(stages[name], stages), str(dumps_yaml(stage_params(stages[name]))))
        out = out or project.with_name(f"out-{name}")
        places = {one: out / one for one in artifacts(stages[name])}
        copy = project.with_name(f"pod-{name}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(image, copy)
        with monkeypatch.context() as patch:
            patch.chdir(copy)
            run_step(name, *given, executor_input(name, out, entries), places)
        entry: dict[str, Any] = json.loads((out / "entry").read_text())[name]
        return entry

    return run


def test_a_laptop_has_what_the_steps_made(project: Path, pod: Any) -> None:
    entries: dict[str, Any] = {}
    entries["copy"] = pod("copy", {})
    entries["count"] = pod("count", {"copy": entries["copy"]})
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("A title", "Another"))
    entries["report"] = pod("report", entries)  # with a parameter that the image does not have
    pulled = {path.name for path in project.with_name("pod-count").iterdir()}
    assert "page.html" not in pulled
    with pytest.raises(Failure, match=r"no finished run had this code and these parameters"):
        fetch()
    publish(run_key(load_stages()), entries)
    assert not Path("dvc.lock").exists()
    fetch()
    assert json.loads(Path("count.json").read_text())["words"] == {"n": 3}
    assert Path("seen.txt").read_text() == "one two three\n"
    dvc("pull")
    assert json.loads(dvc("status", "--json")) == {}
    assert "one two three" in Path("page.html").read_text()
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    assert lock["stages"]["report"]["params"]["params.yaml"] == {"report.title": "Another"}


def test_what_kubeflow_shows(project: Path, pod: Any) -> None:
    pod("count", {"copy": pod("copy", {})})
    out = project.with_name("out-count")
    assert json.loads((out / "count").read_text())["words"] == {"n": 3}
    (shown,) = json.loads((out / "output.json").read_text())["artifacts"]["count"]["artifacts"]
    assert shown["metadata"] == {"words.n": 3}
    assert shown["uri"] == "s3://count"
    assert shown["type"] == {"schemaTitle": "system.Metrics"}


def test_an_image_with_other_code_is_refused(project: Path, pod: Any) -> None:
    Path("words.txt").write_text("four\n")
    with pytest.raises(Failure, match=r"this image has other code for the stage 'copy'"):
        pod("copy", {})


def test_a_remote_that_is_away(project: Path, pod: Any, capfd: pytest.CaptureFixture[str]) -> None:
    entry = pod("copy", {})
    out = project.with_name("out-count")
    remote = project.with_name("remote")
    remote.rename(remote.with_name("away"))
    with pytest.raises(Failure, match=r"^what count needs was not pulled: ") as failure:
        pod("count", {"copy": entry})
    assert "\n" not in str(failure.value)
    assert not out.exists()
    remote.with_name("away").rename(remote)
    shutil.rmtree(remote)
    remote.write_text("no folder")  # so that nothing can be pushed
    with pytest.raises(Failure, match=r"^what copy made was not pushed: ") as failure:
        pod("copy", {}, out)
    assert "\n" not in str(failure.value)
    assert not out.exists()
    with pytest.raises(Failure, match=r"^the DVC remote 'storage' cannot be used: "):
        publish("key", {})


def test_not_where_somebody_works(project: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".dvc/config").write_text(Path(".dvc/config").read_text().replace("true", "false"))
    before = Path("dvc.yaml").read_text()
    given = executor_input("copy", project, {})
    with pytest.raises(Failure, match=r"for the pipeline image alone"):
        run_step("copy", "", "{}", given, {})
    with pytest.raises(Failure, match=r"--executor-input"):
        run_step("copy", "", "{}", "{}", {})
    assert Path("dvc.yaml").read_text() == before


def test_a_server_that_is_away(project: Path) -> None:
    set_remote("s3://bucket/data\n    endpointurl = http://127.0.0.1:9")
    with pytest.raises(Failure, match=r"^the DVC remote 'storage' cannot be used: "):
        fetch()
    assert not Path("dvc.lock").exists()
