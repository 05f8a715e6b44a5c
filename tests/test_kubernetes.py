"""Kubernetes: what the manifests say, what a real API server makes of them, how a release ends."""

import json
import re
import shutil
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from clusters import Cluster, Document, kustomize, need_crds, running
from conftest import TREE, Bake, Project, execute
from containers import docker, need_engine, need_image

VERSIONS = "1.29", "1.32", "1.34", "1.37"
ENVIRONMENTS = "staging", "production"
COMPONENTS = "external-secret", "ingress", "gateway", "monitoring"
GROUPS = "external-secrets.io", "gateway.networking.k8s.io", "monitoring.coreos.com"
A, B, BAD, JOBS = (f"registry.example/flights@sha256:{letter * 64}" for letter in "abcd")
SELECTED = "matchLabels:\n      app.kubernetes.io/component"
# What checkov may say, and why it stays.
SKIPPED = {
    "CKV_K8S_11": "a CPU limit slows requests down while the node is idle",
    "CKV_K8S_15": "an image by its digest is always the same: no pull is needed for what is there",
    "CKV_K8S_35": "libpq reads no password file that its group may read, as a Secret's is",
    "CKV_K8S_8": "a job has no liveness: activeDeadlineSeconds ends it",
    "CKV_K8S_9": "a job has no readiness",
}
IN_JOBS = {"CKV_K8S_8", "CKV_K8S_9"}


@pytest.fixture(scope="session")
def project(bake: Bake) -> Project:
    """Return a project for Kubernetes. Leave it as it is."""
    return bake(platform="kubernetes")


def released(project: Project, environment: str, *components: str) -> list[Document]:
    """Return what a release applies, with more components than the overlay names."""
    folder = project.path / f"build/test/{environment}-{'-'.join(components)}"
    folder.mkdir(parents=True, exist_ok=True)
    up = "../../../deploy/kubernetes"
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": f"{project.slug}-{environment}",
        "resources": [f"{up}/overlays/{environment}"],
        "components": [f"{up}/components/{component}" for component in components],
        "images": [
            {"name": name, "newName": image.split("@")[0], "digest": image.split("@")[1]}
            for name, image in ((project.slug, A), (f"{project.slug}-pipeline", JOBS))
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text), "utf-8")
    return kustomize(project.path, str(folder))


def setup(project: Project) -> list[Document]:
    text = (project.path / "deploy/kubernetes/setup.yaml").read_text("utf-8")
    return list(yaml.safe_load_all(text))


def pods(documents: list[Document]) -> dict[str, Document]:
    """Return the pod templates by the names of what makes them."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec and document["kind"] != "ExternalSecret":
            found[document["metadata"]["name"]] = spec["template"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_knows_the_manifests(project: Project, version: str) -> None:
    documents = setup(project) + released(project, "staging")
    documents += released(project, "production", *COMPONENTS)
    own = [document for document in documents if not document["apiVersion"].startswith(GROUPS)]
    assert {document["kind"] for document in own} >= {"CronJob", "Deployment", "NetworkPolicy"}
    for document in own:  # a kind without a schema raises, too
        kubernetes_validate.validate(document, version, strict=True)


def test_validation_is_strict(project: Project) -> None:
    (deployment,) = (d for d in released(project, "staging") if d["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.32", strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(deployment | {"apiVersion": "apps/v1beta1"}, "1.32", True)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
class TestPolicies:
    def test_pods_are_restricted(self, project: Project, environment: str) -> None:
        found = pods(released(project, environment))
        assert found.keys() == {"api"} | ({"monitor", "retrain"} & found.keys())
        for pod in (template["spec"] for template in found.values()):
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not any("hostPath" in volume for volume in pod["volumes"])
            for container in pod["containers"]:
                least = container["securityContext"]
                assert least["capabilities"] == {"drop": ["ALL"]}
                assert least["readOnlyRootFilesystem"] is True
                assert least["allowPrivilegeEscalation"] is False
                assert re.search(r"@sha256:\w{64}$", container["image"])  # no tag, so no latest
                assert {"cpu", "memory", "ephemeral-storage"} == set(
                    container["resources"]["requests"]
                )
                assert {"memory", "ephemeral-storage"} == set(container["resources"]["limits"])

    def test_every_pod_has_its_account_and_a_policy(
        self, project: Project, environment: str
    ) -> None:
        documents = released(project, environment)
        accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
        assert all(a["automountServiceAccountToken"] is False for a in accounts.values())
        policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
        deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        assert deny in policies
        named = [p["podSelector"].get("matchLabels", {}).items() for p in policies]
        for template in pods(documents).values():
            assert template["spec"]["serviceAccountName"] in accounts
            labels = template["metadata"]["labels"].items()
            assert any(selected and selected <= labels for selected in named)

    def test_namespaces_admit_restricted_pods_alone(
        self, project: Project, environment: str
    ) -> None:
        names = {d["metadata"]["namespace"] for d in released(project, environment, *COMPONENTS)}
        (name,) = names
        (labels,) = (
            d["metadata"]["labels"]
            for d in setup(project)
            if d["kind"] == "Namespace" and d["metadata"]["name"] == name
        )
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_no_secret_is_in_a_manifest(self, project: Project, environment: str) -> None:
        documents = released(project, environment, *COMPONENTS)
        assert "Secret" not in {document["kind"] for document in documents}
        made = {d["spec"]["target"]["name"] for d in documents if d["kind"] == "ExternalSecret"}
        assert made == {"api", "pipeline"}


def test_the_api_is_probed_scaled_and_spread(project: Project) -> None:
    documents = {(d["kind"], d["metadata"]["name"]): d for d in released(project, "production")}
    api = pods(list(documents.values()))["api"]["spec"]
    (container,) = api["containers"]
    probes = {k: v["httpGet"]["path"] for k, v in container.items() if k.endswith("Probe")}
    live = dict.fromkeys(("startupProbe", "livenessProbe"), "/health/live")
    assert probes == live | {"readinessProbe": "/health/ready"}
    assert len(api["topologySpreadConstraints"]) == 2
    assert documents["HorizontalPodAutoscaler", "api"]["spec"]["minReplicas"] >= 2
    assert documents["PodDisruptionBudget", "api"]["spec"]["maxUnavailable"] == 1
    assert "replicas" not in documents["Deployment", "api"]["spec"]  # the autoscaler's
    # What waits for the log lies where the process may write, and there is room for it.
    assert {"name": "spool", "mountPath": "/data"} in container["volumeMounts"]
    assert "PREDICTION_SPOOL=/data/spool" in (project.path / "deploy/Dockerfile").read_text()


def test_jobs_do_not_overlap_and_take_a_no_for_an_answer(project: Project) -> None:
    jobs = [d["spec"] for d in released(project, "production") if d["kind"] == "CronJob"]
    assert [job["concurrencyPolicy"] for job in jobs] == ["Forbid", "Forbid"]
    for job in jobs:
        evicted, usage = job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        assert evicted["action"] == "Ignore"
        assert usage["onExitCodes"]["values"] == [2]


@pytest.mark.parametrize(
    ("verb", "code", "summary", "expected"),
    [
        ("monitor", 0, False, 0),
        ("monitor", 3, False, 0),
        ("monitor", 1, False, 1),
        ("retrain", 3, True, 0),
        ("retrain", 3, False, 3),  # refused before it decided, such as by the audit log
        ("retrain", 137, True, 137),
    ],
)
def test_exit_codes_of_jobs(
    project: Project, tmp_path: Path, verb: str, code: int, summary: bool, expected: int
) -> None:
    made = "mkdir -p reports/retrain && : > reports/retrain/summary.json; " if summary else ""
    done = run_job(project, tmp_path, f"{made}exit {code}", verb)
    assert done.returncode == expected, done.stderr


def test_a_job_hands_the_signal_to_its_verb(project: Project, tmp_path: Path) -> None:
    """A retraining records that it was interrupted."""
    body = "trap 'echo interrupted; exit 143' TERM; kill -TERM $PPID; while :; do sleep .1; done"
    done = run_job(project, tmp_path, body, "retrain")
    assert (done.stdout, done.returncode) == ("interrupted\n", 143)


def run_job(project: Project, tmp_path: Path, body: str, verb: str) -> Any:
    """Run job.sh with a stand-in for the project's command, and folders of its own."""
    (tmp_path / "app").mkdir()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / project.slug
    command.write_text(f"#!/bin/sh\n{body}\n")
    command.chmod(0o755)
    job = (project.path / "deploy/kubernetes/components/jobs/job.sh").read_text("utf-8")
    job = job.replace("/app", str(tmp_path / "app")).replace("=/tmp", f"={tmp_path}")
    job = job.replace("/tmp/project", str(tmp_path / "project"))
    (tmp_path / "job.sh").write_text(job)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    return execute("sh", tmp_path / "job.sh", verb, cwd=tmp_path, env={"PATH": path})


def test_rules_are_those_of_compose_and_name_what_the_api_exports(project: Project) -> None:
    compose = yaml.safe_load((TREE / "deploy/observe/rules.yml").read_text("utf-8"))
    documents = released(project, "production", "monitoring")
    (rule,) = (d for d in documents if d["kind"] == "PrometheusRule")
    assert rule["spec"] == compose
    (monitor,) = (d for d in documents if d["kind"] == "ServiceMonitor")
    (service,) = (d for d in documents if d["kind"] == "Service")
    # The operator calls the job by the Service's name, and the rules ask for that.
    assert 'up{job="api"}' in json.dumps(rule).replace('\\"', '"')
    assert service["metadata"]["name"] == "api"
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_custom_resources_follow_their_schemas(project: Project, environment: str) -> None:
    folder = need_crds()
    schemas = {}
    for path in folder.glob("*.json"):
        group, rest = path.stem.split("_", 1)
        kind, version = rest.rsplit("_", 1)
        schemas[f"{group}/{version}", kind] = json.loads(path.read_text("utf-8"))
    checked = 0
    for document in released(project, environment, *COMPONENTS):
        schema = schemas.get((document["apiVersion"], document["kind"].lower()))
        if schema:
            jsonschema.Draft7Validator(schema).validate(document)
            wrong = document | {"spec": document["spec"] | {"unknwon": 1}}
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.Draft7Validator(schema).validate(wrong)
            checked += 1
    assert checked == 4  # HTTPRoute has none here


@pytest.mark.slow
def test_checkov_finds_nothing_else(project: Project, tmp_path: Path) -> None:
    checkov = ["uv", "tool", "run", "checkov==3.3.30", "--framework", "kubernetes"]
    checkov += ["--compact", "--quiet", "--skip-download", "--output", "json"]
    documents = released(project, "production", *COMPONENTS)
    jobs = [d for d in documents if d["kind"] == "CronJob"]
    for name, part, skipped in (
        ("jobs", jobs, set(SKIPPED)),
        ("rest", [d for d in documents if d not in jobs], SKIPPED.keys() - IN_JOBS),
    ):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(part), "utf-8")
        found = execute(*checkov, "--file", tmp_path / f"{name}.yaml", cwd=tmp_path)
        failed = json.loads(found.stdout)["results"]["failed_checks"]
        other = [
            (check["check_id"], check["check_name"], check["resource"])
            for check in failed
            if check["check_id"] not in skipped
        ]
        assert other == []


@pytest.fixture(scope="module")
def cluster(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give an API server with the project's namespaces and accounts."""
    with running(tmp_path_factory.mktemp("cluster") / "server") as cluster:
        cluster.kubectl("apply", "-f", project.path / "deploy/kubernetes/setup.yaml")
        yield cluster


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
class TestApiServer:
    @pytest.mark.parametrize(
        ("kind", "change", "said"),
        [
            ("Deployment", ("memory: 512Mi", "memory: 512Mb"), "quantities must match"),
            ("Deployment", ("name: spool", "name: spoo", 1), "Not found"),
            ("Deployment", (f"{SELECTED}: api", f"{SELECTED}: other", 1), "selector"),
            ("CronJob", ("43 5 * * *", "43 25 * * *"), "Invalid value"),
            ("CronJob", ("concurrencyPolicy: Forbid", "concurrencyPolicy: Never"), "Unsupported"),
            ("HorizontalPodAutoscaler", ("maxReplicas: 6", "maxReplicas: 1"), "maxReplicas"),
        ],
    )
    def test_it_refuses_what_is_wrong(
        self, project: Project, cluster: Cluster, kind: str, change: tuple[Any, ...], said: str
    ) -> None:
        done = cluster.kubectl("kustomize", project.path / "deploy/kubernetes/overlays/production")
        document = next(d for d in yaml.safe_load_all(done.stdout) if d["kind"] == kind)
        text = yaml.safe_dump(document)
        assert change[0] in text
        apply = ("apply", "--dry-run=server", "-f", "-")
        assert cluster.kubectl(*apply, input=text, check=False).returncode == 0
        done = cluster.kubectl(*apply, input=text.replace(*change), check=False)
        assert done.returncode == 1
        assert said in done.stderr

    def test_the_commands_of_its_page(self, project: Project, cluster: Cluster) -> None:
        """What is created once; a token and a job by hand need a newer server."""
        page = (project.path / "docs/kubernetes.md").read_text("utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        commands = "".join(textwrap.dedent(block) for block in blocks).replace("\\\n", " ")
        wanted = re.compile(r"kubectl (apply|kustomize|.* create secret)")
        found = [line for line in commands.splitlines() if wanted.match(line)]
        assert len(found) == 4
        for command in found:
            project.run("sh", "-c", command, env=cluster.env)
        secrets = cluster.get("secrets", "-n", f"{project.slug}-production")["items"]
        made = {secret["metadata"]["name"]: secret["data"].keys() for secret in secrets}
        # What the pods ask for is what the page says.
        template = pods(released(project, "production"))["api"]
        (container,) = template["spec"]["containers"]
        refs = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e]
        needed = {ref["key"] for ref in refs if not ref.get("optional")}
        (volume,) = (v["secret"] for v in template["spec"]["volumes"] if "secret" in v)
        assert made[volume["secretName"]] == needed | {item["key"] for item in volume["items"]}
        assert "ALERT_URLS" in made["pipeline"]

    @pytest.mark.parametrize("environment", ENVIRONMENTS)
    def test_the_deployer_may_release_and_read_no_secret(
        self, project: Project, cluster: Cluster, environment: str
    ) -> None:
        namespace = f"{project.slug}-{environment}"

        def may(verb: str, what: str, where: str = namespace) -> bool:
            who = f"system:serviceaccount:{namespace}:deployer"
            what, _, sub = what.partition("/")
            asked = ["auth", "can-i", verb, what, "--namespace", where, "--as", who, "--quiet"]
            asked += ["--subresource", sub] if sub else []
            return cluster.kubectl(*asked, check=False).returncode == 0

        assert may("patch", "deployments.apps")
        assert may("create", "pods/exec")
        assert may("delete", "configmaps")
        assert not may("get", "secrets")
        assert not may("create", "pods")
        assert not may("patch", "rolebindings.rbac.authorization.k8s.io")
        assert not may("patch", "deployments.apps", "default")
        others = {f"{project.slug}-{name}" for name in ENVIRONMENTS} - {namespace}
        assert not may("patch", "deployments.apps", others.pop())


class Releases:
    """A copy of the project, and the script that releases it in a cluster."""

    def __init__(self, project: Project, cluster: Cluster) -> None:
        self.project = project
        self.cluster = cluster
        self.namespace = f"{project.slug}-production"

    def run(self, *args: str, **env: str) -> Any:
        known = self.cluster.env | {"PIPELINE_IMAGE": JOBS, "TIMEOUT": "120"} | env
        return self.project.run("sh", "deploy/release.sh", *args, env=known, check=False)

    def roll_out(self, image: str, **env: str) -> Any:
        return self.run("roll-out", image, "production", **env)

    def refused(self, done: Any, *parts: str, code: int = 1) -> None:
        """Check that a release failed with one line that says this."""
        assert done.returncode == code, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        for part in parts:
            assert part in line
        lock = ("configmap", "release-lock", "--ignore-not-found", "-n", self.namespace)
        assert self.cluster.kubectl("get", *lock).stdout == "" or "another release" in line

    @property
    def image(self) -> str:
        """The image that runs."""
        found = self.cluster.get("deployment", "api", "-n", self.namespace)
        image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
        return image

    @property
    def objects(self) -> set[str]:
        kinds = "cronjobs,configmaps,networkpolicies"
        done = self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "name")
        return set(done.stdout.split())


@pytest.fixture(scope="module")
def releases(
    project: Project, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Releases:
    path = tmp_path_factory.mktemp("releases") / project.slug
    shutil.copytree(project.path, path)
    return Releases(replace(project, path=path), cluster)


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
class TestReleases:
    """One after the other, as releases are."""

    def test_usage_is_checked_before_anything_is_asked(self, releases: Releases) -> None:
        for args in (("roll-out", A), ("smoke",), ("roll-out", A, "nowhere"), ("undo", "staging")):
            releases.refused(releases.run(*args), "head of deploy/release.sh", code=2)
        releases.refused(releases.roll_out("flights:latest"), "no image by its digest")
        releases.refused(releases.roll_out(A, PIPELINE_IMAGE=""), "PIPELINE_IMAGE")
        away = releases.roll_out(A, KUBE_CONFIG="{apiVersion: v1, kind: Config}")
        releases.refused(away, f"cannot release in {releases.namespace}")

    def test_nothing_to_go_back_to(self, releases: Releases) -> None:
        releases.refused(releases.run("roll-back", "production"), "nothing to go back to")

    def test_a_first_release_that_never_becomes_healthy_leaves_nothing(
        self, releases: Releases
    ) -> None:
        releases.cluster.never_ready = {BAD}
        done = releases.roll_out(BAD)
        releases.refused(done, BAD, "ImagePullBackOff", "nothing runs, as before")
        left = releases.cluster.get("deployments,cronjobs", "-n", releases.namespace)
        assert left["items"] == []

    def test_roll_out(self, releases: Releases) -> None:
        done = releases.roll_out(A)
        assert done.returncode == 0, done.stdout + done.stderr
        assert releases.image == A
        jobs = releases.cluster.get("cronjobs", "-n", releases.namespace)["items"]
        assert {
            job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"]
            for job in jobs
        } == {JOBS}
        releases.refused(releases.run("roll-back", "production"), "nothing to go back to")
        assert releases.image == A

    def test_two_at_once(self, releases: Releases) -> None:
        until = int(time.time()) + 600
        lock = ("create", "configmap", "release-lock", "-n", releases.namespace)
        releases.cluster.kubectl(*lock, f"--from-literal=until={until}", "--from-literal=by=ann")
        releases.refused(releases.roll_out(B), "another release runs", "(ann)")
        assert releases.image == A
        releases.cluster.kubectl("delete", *lock[1:])

    def test_an_image_that_never_becomes_healthy(self, releases: Releases) -> None:
        releases.cluster.never_ready = {BAD}
        before = releases.objects
        releases.refused(releases.roll_out(BAD), f"{A} runs, as before", "ImagePullBackOff")
        assert releases.image == A
        assert releases.objects == before

    def test_a_cluster_that_refuses_the_manifest(self, releases: Releases) -> None:
        path = releases.project.path / "deploy/kubernetes/base/deployment.yaml"
        text = path.read_text("utf-8")
        path.write_text(text.replace("memory: 512Mi", "memory: 512Mb"), "utf-8")
        releases.refused(releases.roll_out(B), "refuses the manifest", "quantities")
        path.write_text(text, "utf-8")
        assert releases.image == A

    def test_a_smoke_test_that_fails_goes_back(self, releases: Releases, tmp_path: Path) -> None:
        first = tmp_path / "first"  # the release before is asked, too, and answers
        pod = f"sh -c 'mkdir {first} 2>&1 && echo error: no answer && exit 1; exit 0'"
        (tmp_path / "pod").write_text(f"#!/bin/sh\n{pod}\n")
        releases.cluster.never_ready = set()
        done = releases.roll_out(B, POD=f"sh {tmp_path}/pod")
        releases.refused(done, "smoke test says: error: no answer", f"{A} runs, as before")
        assert releases.image == A

    def test_a_killed_release_does_not_hold_up_the_next(self, releases: Releases) -> None:
        """What the overlay no longer names is gone after it; going back brings it back."""
        lock = ("create", "configmap", "release-lock", "-n", releases.namespace)
        releases.cluster.kubectl(*lock, "--from-literal=until=1", "--from-literal=by=ann")
        overlay = releases.project.path / "deploy/kubernetes/overlays/production/kustomization.yaml"
        text = overlay.read_text("utf-8")
        overlay.write_text(text.replace("  - ../../components/jobs", "  # "), "utf-8")
        done = releases.roll_out(B)
        overlay.write_text(text, "utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        assert releases.image == B
        assert not any("monitor" in name for name in releases.objects)

    def test_roll_back(self, releases: Releases) -> None:
        done = releases.run("roll-back", "production")
        assert done.returncode == 0, done.stdout + done.stderr
        assert releases.image == A
        assert any("monitor" in name for name in releases.objects)
        releases.refused(releases.run("roll-back", "production"), "nothing to go back to")
        assert releases.image == A

    def test_smoke(self, releases: Releases) -> None:
        assert releases.run("smoke", "production").returncode == 0
        releases.refused(releases.run("smoke", "production", POD="false"), "smoke test")
        says_no = f"sh {releases.cluster.folder}/no"
        (releases.cluster.folder / "no").write_text("echo refused: 503 >&2; exit 3\n")
        done = releases.run("smoke", "production", POD=says_no)
        assert (done.returncode, done.stderr) == (3, "refused: 503\n")

    def test_what_somebody_applied_by_hand_comes_back(self, releases: Releases) -> None:
        releases.cluster.kubectl("delete", "configmap", "release", "-n", releases.namespace)
        releases.cluster.never_ready = {BAD}
        releases.refused(releases.roll_out(BAD), f"{A} runs, as before")
        assert releases.image == A


def settings(template: Document, documents: list[Document]) -> dict[str, str]:
    """Return the variables that a container of these manifests has, less those of Secrets."""
    (container,) = template["spec"]["containers"]
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    named = [source["configMapRef"]["name"] for source in container["envFrom"][:1]]
    found = {key: value for name in named for key, value in maps[name].items()}
    return found | {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}


def least(template: Document) -> list[str]:
    """Return the options that run a container as its pod would."""
    (container,) = template["spec"]["containers"]
    pod = template["spec"]["securityContext"]
    options = ["--user", f"{pod['runAsUser']}:{pod['runAsGroup']}", "--read-only"]
    options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    options += ["--memory", container["resources"]["limits"]["memory"].replace("i", "")]
    empty = {volume["name"] for volume in template["spec"]["volumes"] if "emptyDir" in volume}
    for mount in container["volumeMounts"]:
        if mount["name"] in empty:
            options += ["--tmpfs", f"{mount['mountPath']}:uid=10001,gid=10001,exec"]
    return options


@pytest.fixture(scope="module")
def images(pipeline: Project) -> Iterator[dict[str, str]]:
    """Build the two images from a promoted bundle."""
    need_engine()
    lines = (pipeline.path / "deploy/Dockerfile").read_text("utf-8").splitlines()
    for line in lines:
        if line.startswith("ARG ") and "_IMAGE=" in line:
            need_image(line.partition("=")[2])
    names = {target: f"template-test-{target}:kubernetes" for target in ("api", "pipeline")}
    try:
        for target, name in names.items():
            dockerfile = pipeline.path / "deploy/Dockerfile"
            docker(
                *("build", "--file", dockerfile, "--target", target, "--tag", name, pipeline.path)
            )
        yield names
    finally:
        for name in names.values():
            docker("image", "rm", "--force", name, check=False)


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
class TestContainers:
    """What a pod would do, by the manifests' own words."""

    def test_the_api_as_its_pod_runs_it(
        self, project: Project, images: dict[str, str], tmp_path: Path
    ) -> None:
        documents = released(project, "production")
        template = pods(documents)["api"]
        (container,) = template["spec"]["containers"]
        keys = tmp_path / "API_KEYS"
        keys.write_text("test:a-secret-key")
        keys.chmod(0o444)
        options = least(template)
        for name, value in settings(template, documents).items():
            options += ["--env", f"{name}={value}"]  # its database is away: rows go to the spool
        options += [
            "--env",
            "PGPASSWORD=secret",
            "--volume",
            f"{keys}:/run/secrets/api/API_KEYS:ro",
        ]
        name = docker("run", "--detach", "--network", "none", *options, images["api"])
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:8000{path}')"
                for _ in range(60):
                    code = execute("docker", "exec", name, "python", "-c", ask, cwd=tmp_path)
                    if code.returncode == 0:
                        break
                    time.sleep(1)
                assert code.returncode == 0, (probe, docker("logs", name))
            assert docker("exec", name, project.slug, "smoke")
            stop = container["lifecycle"]["preStop"]["exec"]["command"]
            # The gauge that it asks for is set twice a second.
            waits = stop[-1].replace("seq 75", "seq 2").replace("sleep 5", "sleep 1")
            # The prediction waits in the spool, so the hook waits, too.
            assert docker("exec", name, *stop[:-1], f"{waits}; echo waited") == "waited"
            docker("stop", "--time", "60", name)
            state = json.loads(docker("inspect", name))[0]["State"]
            assert state["ExitCode"] == 0
        finally:
            docker("rm", "--force", "--volumes", name, check=False)

    def test_the_jobs_as_their_pods_run_them(
        self, project: Project, images: dict[str, str], tmp_path: Path
    ) -> None:
        template = pods(released(project, "production"))["monitor"]
        (container,) = template["spec"]["containers"]
        job = tmp_path / "job.sh"
        script = project.path / "deploy/kubernetes/components/jobs/job.sh"
        job.write_text(script.read_text("utf-8"), "utf-8")
        job.chmod(0o444)
        options = [*least(template), "--volume", f"{job}:/job/job.sh:ro", "--network", "none"]
        # The embedded registry and log: an empty window, of which nothing can be judged.
        for command, said in ((container["args"], "not judged"), (["retrain", "--help"], "Usage")):
            run = ("run", "--rm", *options, images["pipeline"], *container["command"], *command)
            done = execute("docker", *run, cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            assert said in done.stdout + done.stderr
