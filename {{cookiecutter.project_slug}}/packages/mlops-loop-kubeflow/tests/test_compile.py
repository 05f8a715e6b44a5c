"""The compiled pipeline: all that dvc.yaml and params.yaml say, and nothing written twice."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PARAMS, STAGES, set_remote, write_stages
from mlops_loop.base.errors import Failure

from mlops_loop_kubeflow.compile import compile_pipeline

pytestmark = pytest.mark.usefixtures("project")
OUTPUT = Path("build/pipeline.yaml")


def compiled() -> tuple[Any, Any]:
    """Return the pipeline, and what is Kubernetes' own of it."""
    set_remote("s3://bucket/data")
    compile_pipeline(OUTPUT, "registry/small:1")
    pipeline, platform = yaml.safe_load_all(OUTPUT.read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def container(pipeline: Any, name: str) -> Any:
    return pipeline["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def test_a_step_for_each_stage() -> None:
    pipeline, _ = compiled()
    tasks = pipeline["root"]["dag"]["tasks"]
    assert set(tasks) == {*STAGES, "publish-lock"}
    assert set(tasks["report"]["dependentTasks"]) == {"copy", "count"}
    assert set(tasks["publish-lock"]["dependentTasks"]) == set(STAGES)
    step = container(pipeline, "copy")
    assert step["image"] == "registry/small:1"
    assert step["command"][:4] == ["small", "kubeflow", "step", "copy"]
    assert yaml.safe_load(step["command"][7])["copy"] == {"how": "plain"}
    text = OUTPUT.read_text()
    compiled()
    assert OUTPUT.read_text() == text


def test_a_new_stage_appears() -> None:
    write_stages({**STAGES, "more": {"cmd": "cat page.html > more", "deps": ["page.html"]}})
    pipeline, _ = compiled()
    assert pipeline["root"]["dag"]["tasks"]["more"]["dependentTasks"] == ["report"]


def test_what_changes_changes_its_own_command_alone() -> None:
    names = [*STAGES, "publish-lock"]
    before, _ = compiled()
    Path("params.yaml").write_text(PARAMS.replace("A title", "Another"))
    after, _ = compiled()
    changed = [one for one in names if container(before, one) != container(after, one)]
    assert changed == ["report", "publish-lock"]
    Path("words.txt").write_text("four\n")  # code, under the same tag
    last, _ = compiled()
    changed = [one for one in names if container(after, one) != container(last, one)]
    assert changed == ["copy", "publish-lock"]


def test_metrics_and_pages_are_artifacts() -> None:
    pipeline, _ = compiled()
    count = pipeline["components"]["comp-count"]["outputDefinitions"]
    assert count["artifacts"]["count"]["artifactType"]["schemaTitle"] == "system.Metrics"
    report = pipeline["components"]["comp-report"]["outputDefinitions"]
    assert report["artifacts"]["page"]["artifactType"]["schemaTitle"] == "system.HTML"
    assert "page={{$.outputs.artifacts['page'].path}}" in container(pipeline, "report")["args"]


def test_resources_by_default() -> None:
    pipeline, platform = compiled()
    resources = container(pipeline, "copy")["resources"]
    assert resources["resourceCpuRequest"] == "1"
    assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"] == "4Gi"
    assert "accelerator" not in resources
    task = pipeline["root"]["dag"]["tasks"]["copy"]
    assert task["retryPolicy"]["maxRetryCount"] == 2
    assert task["cachingOptions"] == {"enableCache": True}
    (secret,) = platform["exec-copy"]["secretAsEnv"]
    assert secret["secretName"] == "pipeline"
    assert secret["optional"]
    assert {"secretKey": "MLFLOW_TRACKING_URI", "envVar": "MLFLOW_TRACKING_URI"} in secret[
        "keyToEnv"
    ]


SECTION = """
kubeflow:
  memory: 2Gi
  secret: other
  secret_keys: [TOKEN]
  env: {MLFLOW_TRACKING_URI: http://mlflow}
  stages:
    copy: {cpu: 4, retries: 0, cache: false, accelerator: {type: nvidia.com/gpu}}
"""


def test_resources_of_a_stage() -> None:
    Path("params.yaml").write_text(PARAMS + SECTION)
    pipeline, platform = compiled()
    copy, report = (container(pipeline, name) for name in ("copy", "report"))
    assert copy["resources"]["resourceCpuRequest"] == "4"
    assert copy["resources"]["resourceMemoryLimit"] == "2Gi"
    assert copy["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert copy["resources"]["accelerator"]["resourceCount"] == "1"
    assert report["resources"]["resourceCpuRequest"] == "1"
    assert report["resources"]["resourceMemoryLimit"] == "2Gi"
    assert report["env"] == [{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow"}]
    task = pipeline["root"]["dag"]["tasks"]["copy"]
    assert task["cachingOptions"] == {}
    assert task.get("retryPolicy", {}).get("maxRetryCount", 0) == 0
    assert platform["exec-copy"]["secretAsEnv"][0]["keyToEnv"] == [
        {"secretKey": "TOKEN", "envVar": "TOKEN"}
    ]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("{memory: lots}", "kubeflow.memory"),
        ("{cpus: 4}", "kubeflow.cpus"),
        ("{stages: {trian: {cpu: 4}}}", "kubeflow.stages.trian: dvc.yaml has no such stage"),
    ],
)
def test_refuses_settings(section: str, line: str) -> None:
    Path("params.yaml").write_text(f"{PARAMS}kubeflow: {section}\n")
    with pytest.raises(Failure, match=r"params.yaml") as failure:
        compiled()
    assert line in str(failure.value)
    assert not OUTPUT.exists()


def test_refuses_a_remote_that_pods_cannot_reach() -> None:
    with pytest.raises(Failure, match=r"the DVC remote 'storage' is a folder here"):
        compile_pipeline(OUTPUT, None)
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(Failure, match=r"no DVC remote"):
        compile_pipeline(OUTPUT, None)
    assert not OUTPUT.exists()
