"""KServe and Seldon Core 2: what their definitions allow, and releases on a real API server.

The controllers are stand-ins: they do what a change leads to, pods that start or do not.
"""

import json
import re
import shutil
import textwrap
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import clusters
import pytest
import yaml
from clusters import Cluster, Document, kustomize, need_crds
from conftest import Bake, Project
from custom_resources import as_of_1_20, definitions, problems
from tools import need_program

MERGE = {"Content-Type": "application/merge-patch+json"}
PLATFORMS = ["kserve", "seldon"]
FIRST, SECOND = (
    f"registry.example/flight-delays@sha256:{sha256(b).hexdigest()}" for b in (b"1", b"2")
)
BAD = f"registry.example/bad@sha256:{sha256(b'3').hexdigest()}"
JOBS = f"registry.example/jobs@sha256:{sha256(b'4').hexdigest()}"


@pytest.fixture(scope="module", params=PLATFORMS)
def project(request: pytest.FixtureRequest, bake: Bake) -> Project:
    need_program("kubectl")
    return bake(platform=request.param)


@pytest.fixture(scope="module")
def platform(project: Project) -> str:
    (found,) = (name for name in PLATFORMS if (project.path / "deploy" / name).is_dir())
    return found


def overlays(platform: str) -> list[str]:
    return [f"deploy/{platform}/overlays/{name}" for name in ("staging", "production")]


def with_component(project: Project, platform: str, name: str, into: Path) -> list[Document]:
    """Return production's manifests with a component that is commented out."""
    copy = into / "project"
    shutil.copytree(project.path, copy)
    file = copy / overlays(platform)[1] / "kustomization.yaml"
    text = file.read_text("utf-8")
    assert f"  # - ../../components/{name}" in text
    file.write_text(text.replace(f"  # - ../../components/{name}", f"  - ../../components/{name}"))
    return kustomize(copy, overlays(platform)[1])


def one(documents: list[Document], kind: str) -> Document:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def test_manifests_are_what_the_definitions_allow(project: Project, platform: str) -> None:
    folder = need_crds()
    for overlay in overlays(platform):
        documents = kustomize(project.path, overlay)
        assert problems(folder, documents) == []
        for document in documents:  # the check is strict
            if document["kind"] in ("InferenceService", "Server", "Model"):
                assert problems(folder, [document | {"spec": document["spec"] | {"replica": 1}}])


def test_components_are_what_the_definitions_allow(
    project: Project, platform: str, tmp_path: Path
) -> None:
    name = {"kserve": "serverless", "seldon": "experiment"}[platform]
    documents = with_component(project, platform, name, tmp_path)
    assert problems(need_crds(), documents) == []
    if platform == "seldon":
        names = {
            document["metadata"]["name"] for document in documents if document["kind"] == "Model"
        }
        assert {one["name"] for one in one_spec(documents, "Experiment")["candidates"]} == names
        return
    predictor = one_spec(documents, "InferenceService")["predictor"]
    assert predictor["canaryTrafficPercent"] == 100
    # Knative refuses these without feature flags.
    refused = {"topologySpreadConstraints", "terminationGracePeriodSeconds", "securityContext"}
    assert not refused & set(predictor)
    assert not any("lifecycle" in container for container in predictor["containers"])


def one_spec(documents: list[Document], kind: str) -> Document:
    spec: Document = one(documents, kind)["spec"]
    return spec


def containers(documents: list[Document]) -> Iterator[Document]:
    for document in documents:
        spec = document.get("spec", {})
        for pod in (spec.get("predictor"), spec.get("podSpec")):
            if pod:
                yield from [*pod["containers"], *pod.get("initContainers", [])]


def test_containers_have_least_rights_and_limits(project: Project, platform: str) -> None:
    for overlay in overlays(platform):
        found = [*containers(kustomize(project.path, overlay))]
        assert found
        for container in found:
            rights = container["securityContext"]
            assert rights["runAsNonRoot"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
            assert container["resources"]["limits"]["memory"]
            assert not container["image"].endswith(":latest")


def test_what_they_name_is_there(project: Project, platform: str) -> None:
    """kustomize renames ConfigMaps in custom resources too: changed settings roll out."""
    for overlay in overlays(platform):
        documents = kustomize(project.path, overlay)
        maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
        for container in containers(documents):
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in maps


def test_a_model_goes_to_the_server_of_its_release_only(bake: Bake) -> None:
    need_program("kubectl")
    documents = kustomize(bake(platform="seldon").path, overlays("seldon")[1])
    model, server = one_spec(documents, "Model"), one_spec(documents, "Server")
    assert model["requirements"] == server["capabilities"]
    (copied,) = server["podSpec"]["initContainers"]
    assert model["storageUri"] in copied["command"][-1]


class Controllers(clusters.Controllers):
    """What KServe, Seldon, scheduler and kubelet do."""

    def run(self) -> None:
        self.done: dict[str, str] = {}
        kserve, seldon = "/apis/serving.kserve.io/v1beta1", "/apis/mlops.seldon.io/v1alpha1"
        watched = {
            f"{kserve}/inferenceservices": self.inference_service,
            f"{seldon}/servers": self.server,
            f"{seldon}/models": self.model,
        }
        while not self.ended.wait(0.2):
            for path, act in watched.items():
                group = path.rpartition("/")[0]
                answer = self.api.get(path)  # 404 until the definitions are there
                for document in answer.json()["items"] if answer.is_success else ():
                    meta, text = document["metadata"], json.dumps(document["spec"], sort_keys=True)
                    if self.done.get(meta["uid"]) == text:
                        continue
                    kind = path.rpartition("/")[2]
                    base = f"{group}/namespaces/{meta['namespace']}/{kind}/{meta['name']}"
                    self.done[meta["uid"]] = text if act(document, base) else ""

    def status(self, base: str, status: Document) -> None:
        answer = self.api.patch(f"{base}/status", json={"status": status}, headers=MERGE)
        assert answer.status_code == 200, answer.text

    def ready(self, base: str, ready: bool, **more: Any) -> None:
        condition = {
            "type": "Ready",
            "status": str(ready),
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.status(base, {"conditions": [condition], **more})

    def pod(self, namespace: str, name: str, labels: Document, container: Document) -> bool:
        """Make a pod with one container; return whether it becomes ready."""
        bad = any(part in container["image"] for part in self.cluster.never_ready)
        core = f"/api/v1/namespaces/{namespace}/pods"
        self.api.delete(f"{core}/{name}", params={"gracePeriodSeconds": 0})
        spec = {"containers": [{"name": container["name"], "image": container["image"]}]}
        meta = {"name": name, "labels": labels}
        answer = self.api.post(core, json={"metadata": meta, "spec": spec})
        assert answer.status_code == 201, answer.text
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": self.cluster.why}}
        found = {"name": container["name"], "ready": not bad, "restartCount": 0, "imageID": ""}
        found |= {"image": container["image"], "state": waiting if bad else {"running": {}}}
        phase = "Pending" if bad else "Running"
        self.status(f"{core}/{name}", {"phase": phase, "containerStatuses": [found]})
        return not bad

    def inference_service(self, document: Document, base: str) -> bool:
        namespace, predictor = document["metadata"]["namespace"], document["spec"]["predictor"]
        (container,) = predictor["containers"]
        revision = f"api-predictor-{sha256(container['image'].encode()).hexdigest()[:8]}"
        labels = {"serving.kserve.io/inferenceservice": "api"}
        ready = self.pod(namespace, revision, labels, container)
        now = document.get("status", {}).get("components", {}).get("predictor", {})
        now["latestCreatedRevision"] = revision
        if ready:
            now["latestReadyRevision"] = revision
            if predictor.get("canaryTrafficPercent", 100) == 100:
                now["latestRolledoutRevision"] = revision
        self.ready(base, ready, components={"predictor": now})
        if "canaryTrafficPercent" not in predictor:
            self.deployment(namespace, labels, container, ready)
        return True

    def deployment(
        self, namespace: str, labels: Document, container: Document, ready: bool
    ) -> None:
        path, count = f"/apis/apps/v1/namespaces/{namespace}/deployments", int(ready)
        pod = {"containers": [{"name": container["name"], "image": container["image"]}]}
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        self.api.post(path, json={"metadata": {"name": "api-predictor"}, "spec": spec})
        one = self.api.patch(f"{path}/api-predictor", json={"spec": spec}, headers=MERGE).json()
        status = {"observedGeneration": one["metadata"]["generation"], "replicas": 1}
        status |= {"updatedReplicas": 1, "readyReplicas": count, "availableReplicas": count}
        self.status(f"{path}/api-predictor", status)

    def server(self, document: Document, base: str) -> bool:
        (container,) = document["spec"]["podSpec"]["containers"]
        meta = document["metadata"]
        ready = self.pod(meta["namespace"], f"{meta['name']}-0", {}, container)
        self.ready(base, ready, loadedModels=0, replicas=1, selector="server=mlserver")
        return True

    def model(self, document: Document, base: str) -> bool:
        """A model is ready when a server that is has what it requires."""
        servers = self.api.get(base.rpartition("/models/")[0] + "/servers").json()["items"]
        fitting = [
            server
            for server in servers
            if set(document["spec"]["requirements"]) <= set(server["spec"]["capabilities"])
            and server.get("status", {}).get("conditions", [{}])[0].get("status") == "True"
        ]
        self.ready(base, bool(fitting), replicas=1)
        return bool(fitting)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = need_crds()
    plain, clusters.Controllers = clusters.Controllers, Controllers  # type: ignore[misc]
    try:
        with clusters.running(tmp_path_factory.mktemp("cluster") / "k8s") as cluster:
            for (version, kind), definition in definitions(folder).items():
                if version.startswith("mlops.seldon.io") or kind == "InferenceService":
                    cluster.kubectl("create", "-f", "-", input=json.dumps(as_of_1_20(definition)))
            wait = "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"
            for _ in range(60):  # no status yet is an error
                if cluster.kubectl(*wait, check=False).returncode == 0:
                    break
                time.sleep(1)
            cluster.kubectl(*wait)
            yield cluster
    finally:
        clusters.Controllers = plain  # type: ignore[misc]


class Releases:
    """deploy/release.sh on a cluster, in a namespace that begins empty."""

    def __init__(self, project: Project, cluster: Cluster, folder: Path) -> None:
        self.project, self.cluster = project, cluster
        self.namespace = f"{project.slug}-staging"
        self.passes = folder / "passes"  # whether the smoke test does
        self.passes.write_text("true")
        pod = folder / "pod"
        pod.write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\n"$(cat {self.passes})"\n')
        pod.chmod(0o755)
        self.env = cluster.env | {"POD": str(pod), "TIMEOUT": "30", "PIPELINE_IMAGE": JOBS}

    def __call__(self, *args: str) -> tuple[int, str]:
        done = self.project.run("sh", "deploy/release.sh", *args, check=False, env=self.env)
        return done.returncode, done.stderr.strip()

    def get(self, *args: str) -> list[Document]:
        found: list[Document] = self.cluster.get("-n", self.namespace, *args)["items"]
        return found

    def images(self) -> set[str]:
        """Return the images of what is released."""
        found = [*self.get("inferenceservices"), *self.get("servers")]
        return {container["image"] for container in containers(found)}

    def locked(self) -> bool:
        return any(one["metadata"]["name"] == "release-lock" for one in self.get("configmaps"))


@pytest.fixture
def release(project: Project, cluster: Cluster, tmp_path: Path) -> Iterator[Releases]:
    release = Releases(project, cluster, tmp_path)
    cluster.never_ready.add("registry.example/bad")
    name = release.namespace = f"{project.slug}-{sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    copied = tmp_path / "project"
    shutil.copytree(project.path, copied)
    release.project = Project(copied, project.slug, project.package, "")
    for file in copied.glob("deploy/*/overlays/staging/kustomization.yaml"):
        text = file.read_text("utf-8")
        file.write_text(text.replace(f"namespace: {project.slug}-staging", f"namespace: {name}"))
    cluster.kubectl("create", "namespace", name)
    yield release
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.slow
@pytest.mark.xdist_group("kserve")
class TestRelease:
    def test_rolls_out_and_back(self, release: Releases) -> None:
        code, said = release("roll-back", "staging")
        assert (code, said.startswith("error: nothing to go back to")) == (1, True)
        assert release("roll-out", FIRST, "staging") == (0, "")
        assert release.images() == {FIRST}
        assert release("roll-out", SECOND, "staging") == (0, "")
        assert release.images() == {SECOND}
        assert release("smoke", "staging") == (0, "")
        assert release("roll-back", "staging") == (0, "")
        assert release.images() == {FIRST}
        code, said = release("roll-back", "staging")  # once is what it keeps
        assert (code, len(said.splitlines())) == (1, 1)
        assert release.images() == {FIRST}
        assert not release.locked()

    def test_an_image_that_does_not_start_changes_nothing(self, release: Releases) -> None:
        code, said = release("roll-out", BAD, "staging")
        assert code == 1
        assert said.endswith("nothing runs, as before"), said
        assert release.images() == set()
        assert release("roll-out", FIRST, "staging")[0] == 0
        code, said = release("roll-out", BAD, "staging")
        assert code == 1
        assert said.startswith(f"error: {BAD} was not released: "), said
        assert said.endswith(f"{FIRST} runs, as before")
        assert len(said.splitlines()) == 1
        assert release.images() == {FIRST}
        assert not release.locked()

    def test_a_failed_smoke_test_changes_nothing(self, release: Releases) -> None:
        assert release("roll-out", FIRST, "staging")[0] == 0
        release.passes.write_text("false")
        code, said = release("smoke", "staging")
        assert (code, len(said.splitlines())) == (1, 1)
        assert release.images() == {FIRST}

    def test_two_at_once_are_refused(self, release: Releases) -> None:
        lock = "create", "configmap", "release-lock", "--from-literal=by=anna"
        until = "--from-literal=until=99999999999"
        release.cluster.kubectl("-n", release.namespace, *lock, until)
        code, said = release("roll-out", FIRST, "staging")
        assert code == 1
        assert said.startswith(f"error: another release runs in {release.namespace} (anna)")
        assert release.images() == set()
        assert release.locked()  # it is not ours to remove

    def test_a_manifest_that_the_cluster_refuses_changes_nothing(self, release: Releases) -> None:
        assert release("roll-out", FIRST, "staging")[0] == 0
        (file,) = release.project.path.glob("deploy/*/base/[is]*er*.yaml")
        text = file.read_text("utf-8")
        file.write_text(text.replace("requests: {cpu: 250m", "requests: {cpu: [250m]"))
        code, said = release("roll-out", SECOND, "staging")
        assert code == 1
        assert said.startswith("error: the cluster refuses the manifest, and nothing was changed: ")
        assert len(said.splitlines()) == 1
        assert release.images() == {FIRST}

    @pytest.mark.parametrize(
        "args", [(), ("roll-out", FIRST), ("roll-out", FIRST, "moon"), ("x", "staging")]
    )
    def test_wrong_usage(self, release: Releases, args: tuple[str, ...]) -> None:
        code, said = release(*args)
        assert (code, len(said.splitlines())) == (2, 1)

    def test_a_tag_is_refused(self, release: Releases) -> None:
        code, said = release("roll-out", "registry.example/flight-delays:1", "staging")
        assert (code, len(said.splitlines())) == (1, 1)


@pytest.mark.slow
@pytest.mark.xdist_group("kserve")
@pytest.mark.parametrize("project", ["kserve"], indirect=True)
class TestCanary:
    """With components/serverless a release begins with a tenth of the requests."""

    @pytest.fixture
    def serverless(self, release: Releases) -> Releases:
        (file,) = release.project.path.glob("deploy/kserve/overlays/staging/kustomization.yaml")
        text = file.read_text("utf-8").replace(
            "  # - ../../components/serverless", "  - ../../components/serverless"
        )
        file.write_text(text)
        return release

    def percent(self, release: Releases) -> int:
        (found,) = release.get("inferenceservices")
        percent: int = found["spec"]["predictor"]["canaryTrafficPercent"]
        return percent

    def test_then_all_of_them(self, serverless: Releases) -> None:
        assert serverless("roll-out", FIRST, "staging") == (0, "")
        done = serverless.project.run(
            "sh", "deploy/release.sh", "roll-out", SECOND, "staging", env=serverless.env
        )
        assert f"10 % of the requests go to {SECOND}" in done.stdout
        assert self.percent(serverless) == 100
        assert serverless.images() == {SECOND}

    def test_a_bad_one_gets_none(self, serverless: Releases) -> None:
        assert serverless("roll-out", FIRST, "staging") == (0, "")
        code, said = serverless("roll-out", BAD, "staging")
        assert (code, said.endswith(f"{FIRST} runs, as before")) == (1, True), said
        assert self.percent(serverless) == 100
        assert serverless.images() == {FIRST}


@pytest.mark.slow
@pytest.mark.xdist_group("kserve")
def test_the_commands_of_its_page(project: Project, platform: str, release: Releases) -> None:
    """All of them, with two releases between what is created once and what comes later."""
    page = (project.path / f"docs/{platform}.md").read_text("utf-8")
    parts = page.partition("## What a push does")
    before, after = (
        textwrap.dedent("".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL)))
        for part in (parts[0].partition("## Create once")[2], parts[2])
    )
    staging = "-n", f"{project.slug}-staging"
    release.cluster.kubectl(*staging, "delete", "secret", "api", "--ignore-not-found", check=False)
    run = "sh", "-ec"
    project.run(*run, before, env=release.env)
    for image in (FIRST, SECOND):
        roll_out = "deploy/release.sh", "roll-out", image, "production"
        project.run("sh", *roll_out, env=release.env)
    said = project.run(*run, after, env=release.env).stdout
    kind = {"kserve": "InferenceService", "seldon": "Model"}[platform]
    assert f"kind: {kind}\n" in said
    shown = "get", "-n", f"{project.slug}-production", "inferenceservices,servers"
    assert FIRST in release.cluster.kubectl(*shown, "-o", "json").stdout
    secrets = release.cluster.get("secrets", *staging)["items"]
    assert "api" in {one["metadata"]["name"] for one in secrets}


def test_administrators_manifests_are_yaml(project: Project, platform: str) -> None:
    text = (project.path / f"deploy/{platform}/setup.yaml").read_text("utf-8")
    assert {document["kind"] for document in yaml.safe_load_all(text)} == {
        "ClusterRole",
        "RoleBinding",
    }
