"""Kubeflow: the pipeline compiled from dvc.yaml, and its steps in containers, by KFP's own runner.

The steps run with `make test-all`, or by name: pytest tests/test_kubeflow.py -m rare
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import Bake, Project, copy, copy_environment, once
from containers import docker, need_engine, need_image
from servers import object_store
from test_evidence import AWS

pytestmark = pytest.mark.slow
PACKAGE = "packages/mlops-loop-kubeflow"
STAGES = ["ingest", "validate", "split", "train", "evaluate", "export"]
IMAGE = "template-test-kubeflow:pipeline"
# Few rows, and a model that is soon made; a step that fails is not tried again.
SMALL = [
    ("start: '2013-01-01'", "start: '2013-07-01'"),
    ("end: '2014-01-01'", "end: '2013-11-01'"),
    ("max_iter: 100\n", "max_iter: 20\n"),
]
RUN = """
import logging, os, sys
from kfp import components, local
root, package = sys.argv[1:]
names = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
runner = local.DockerRunner(network_mode="host", environment={n: os.environ[n] for n in names})
local.init(runner, pipeline_root=root, enable_caching=True)
components.load_component_from_file(package)()
"""


@pytest.fixture(scope="module")
def installed_kubeflow(
    bake: Bake, installed: Project, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """Return a project with orchestrator=kubeflow, locked and installed. Leave it as it is."""

    def make() -> Project:
        project = bake(lock=True, orchestrator="kubeflow", platform="kubernetes")
        copy_environment(installed, project)
        project.run("uv", "sync")
        return project

    return once(tmp_path_factory, "kubeflow", make)


def test_the_package_is_clean(installed_kubeflow: Project) -> None:
    project = installed_kubeflow
    project.uv("ruff", "check", "--no-cache", ".")
    project.uv("ruff", "format", "--no-cache", "--check", ".")
    project.uv("mypy", "--config-file", f"{PACKAGE}/pyproject.toml")


def test_the_package_s_tests_pass(installed_kubeflow: Project) -> None:
    options = ("-q", "-n", "2", "-p", "no:cacheprovider")
    project = installed_kubeflow
    done = project.uv("pytest", *options, f"{PACKAGE}/tests", timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-10000:]


def test_what_is_in_dvc_yaml_is_compiled(installed_kubeflow: Project, tmp_path: Path) -> None:
    project = copy(installed_kubeflow, tmp_path)
    compile_ = (project.slug, "kubeflow", "compile")
    refused = project.uv(*compile_, check=False)
    assert refused.returncode == 1
    assert "is a folder here, which no pod has" in refused.stderr
    assert not (project.path / "build/pipeline.yaml").exists()
    project.uv("dvc", "remote", "add", "--default", "--force", "storage", "s3://bucket/path")
    project.uv(*compile_)
    pipeline = next(yaml.safe_load_all((project.path / "build/pipeline.yaml").read_text("utf-8")))
    assert set(pipeline["root"]["dag"]["tasks"]) == {*STAGES, "publish-lock"}
    shown = {
        name: artifact["artifactType"]["schemaTitle"]
        for stage in STAGES
        for name, artifact in pipeline["components"][f"comp-{stage}"]["outputDefinitions"]
        .get("artifacts", {})
        .items()
    }
    page = "system.HTML"
    assert shown == {"validation": page, "evaluation": page, "metrics": "system.Metrics"} | {
        "card": page
    }
    missing = project.uv(project.slug, "kubeflow", "submit", check=False)
    assert missing.returncode == 2
    assert "--endpoint" in missing.stderr


@dataclass(frozen=True)
class Cluster:
    """A project, the image of its steps, and a DVC remote; runs go through KFP's DockerRunner."""

    project: Project
    root: Path
    script: Path

    def submit(self) -> tuple[list[str], str]:
        """Run the compiled pipeline; return the steps that ran, and what was printed."""
        slug, package = self.project.slug, "build/pipeline.yaml"
        self.project.uv(slug, "kubeflow", "compile", package, "--image", IMAGE)
        done = self.project.uv(
            "python", self.script, self.root, package, check=False, timeout=1800, env=AWS
        )
        said = done.stdout + done.stderr
        started = [line for line in said.splitlines() if "Executing task" in line]
        return [
            name for line in started for name in [*STAGES, "publish-lock"] if name in line
        ], said

    def change(self, old: str, new: str) -> None:
        params = self.project.path / "params.yaml"
        text = params.read_text("utf-8")
        assert old in text
        params.write_text(text.replace(old, new), "utf-8")


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    with object_store() as address:
        httpx.put(f"{address}/dvc").raise_for_status()
        yield address


@pytest.fixture(scope="module")
def cluster(
    installed_kubeflow: Project, storage: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    need_engine()
    project = copy(installed_kubeflow, tmp_path_factory.mktemp("kubeflow"))
    root = tmp_path_factory.mktemp("runs")
    for folder in (root, *list(root.parents)[:2]):
        folder.chmod(0o777)  # the image's user is not root
    script = root / "run.py"
    script.write_text(RUN, "utf-8")
    made = Cluster(project, root, script)
    for old, new in SMALL:
        made.change(old, new)
    with (project.path / "params.yaml").open("a", encoding="utf-8") as params:
        params.write("kubeflow: {retries: 0}\n")
    project.uv("dvc", "remote", "add", "--default", "--force", "storage", "s3://dvc/data")
    project.uv("dvc", "remote", "modify", "storage", "endpointurl", storage)
    dockerfile = project.path / "deploy/Dockerfile"
    for line in dockerfile.read_text("utf-8").splitlines():
        if line.startswith("ARG ") and "_IMAGE=" in line:
            need_image(line.partition("=")[2])
    try:
        docker("build", "-f", dockerfile, "--target", "pipeline", "-t", IMAGE, project.path)
        yield made
    finally:
        docker("image", "rm", "--force", IMAGE, check=False)


def digest(project: Project) -> str:
    return hashlib.sha256((project.path / "build/bundle/model.onnx").read_bytes()).hexdigest()


def brought(project: Project) -> None:
    """Bring what a run made to a laptop, where all is then as it was there."""
    project.uv(project.slug, "kubeflow", "fetch", env=AWS)
    project.uv("dvc", "pull", env=AWS)
    assert json.loads(project.uv("dvc", "status", "--json").stdout) == {}


@pytest.mark.rare
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
class TestSteps:
    """In this order: each goes on from where the one before has left the remote and the cache."""

    def test_the_image_has_no_kfp(self, cluster: Cluster) -> None:
        find = "import importlib.util as u; print(u.find_spec('kfp'))"
        assert docker("run", "--rm", IMAGE, "python", "-c", find) == "None"

    def test_the_same_model_as_on_a_laptop(self, cluster: Cluster, tmp_path: Path) -> None:
        laptop = copy(cluster.project, tmp_path)
        laptop.uv("dvc", "repro", timeout=1200)
        ran, said = cluster.submit()
        assert ran == [*STAGES, "publish-lock"], said[-5000:]
        project = cluster.project
        assert not (project.path / "dvc.lock").exists()
        brought(project)
        assert digest(project) == digest(laptop)
        for name in ("reports/metrics.json", "reports/data/accepted.json"):
            made = (project.path / name).read_text("utf-8")
            assert made == (laptop.path / name).read_text("utf-8"), name

    def test_metrics_and_card_are_artifacts(self, cluster: Cluster) -> None:
        (run,) = cluster.root.glob(f"{cluster.project.slug}-*")
        output = json.loads((run / "evaluate/executor_output.json").read_text("utf-8"))
        (shown,) = output["artifacts"]["metrics"]["artifacts"]
        metrics = json.loads((cluster.project.path / "reports/metrics.json").read_text("utf-8"))
        assert shown["metadata"]["test.roc_auc"] == metrics["test"]["roc_auc"]
        assert json.loads((run / "evaluate/metrics").read_text("utf-8")) == metrics
        card = cluster.project.path / "build/bundle/card.html"
        assert (run / "export/card").read_bytes() == card.read_bytes()

    def test_a_second_run_is_cached(self, cluster: Cluster) -> None:
        ran, said = cluster.submit()
        assert ran == [], said[-5000:]
        assert "SUCCESS" in said

    def test_a_changed_parameter_runs_what_depends_on_it(self, cluster: Cluster) -> None:
        cluster.change("reference_rows: 10000", "reference_rows: 5000")
        ran, said = cluster.submit()
        assert ran == ["export", "publish-lock"], said[-5000:]
        brought(cluster.project)

    def test_other_code_under_the_same_tag(self, cluster: Cluster) -> None:
        """It runs again, and the image that lacks it says so."""
        path = cluster.project.path / "behaviour.yaml"
        path.write_text(path.read_text("utf-8") + "# changed\n", "utf-8")
        ran, said = cluster.submit()
        assert ran == ["evaluate"]
        assert "error: this image has other code for the stage 'evaluate'" in said
        cluster.project.run("git", "checkout", "behaviour.yaml")

    def test_a_remote_that_is_away(self, cluster: Cluster, storage: str) -> None:
        cluster.change("reference_rows: 5000", "reference_rows: 4000")
        httpx.post(f"{storage}/moto-api/reset").raise_for_status()  # the bucket is gone
        ran, said = cluster.submit()
        assert ran == ["export"]
        errors = [line.strip() for line in said.splitlines() if "error:" in line]
        assert len(errors) == 1, said[-5000:]
        assert errors[0].startswith("error: what export needs was not pulled: ")
