"""Clusters: a real API server, and stand-ins for controllers and kubelet, which it lacks."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import TEMPLATE, execute
from tools import need_program

# `kubectl` for an API server of 1.20 without nodes. There `exec` has no kubelet to ask: the command
# runs under the prefix in POD, such as `docker exec NAME`.
KUBECTL = """#!/bin/sh
case " $* " in
*" exec "*" -- "*) while [ "$1" != -- ]; do shift; done; shift; exec $POD "$@" ;;
*" kustomize "*) "{kubectl}" "$@" | "{python}" "{here}" ;;
*) exec "{kubectl}" "$@" ;;
esac
"""
STANDIN = Path(__file__).parent / "standins/kubectl/as_of_1_20.py"
SERVER = "KUBERNETES_API"  # the program that starts an API server: PROGRAM up|down FOLDER
CRDS = "CRDS"  # the folder with schemas of custom resources
Document = dict[str, Any]


def need_crds() -> Path:
    """Return the folder with schemas of custom resources."""
    if not os.environ.get(CRDS):
        pytest.skip(f"the CRDs are missing: {CRDS} names no folder")
    return Path(os.environ[CRDS])


def kustomize(project: Path, folder: str) -> list[Document]:
    """Return what an overlay makes."""
    done = execute(need_program("kubectl"), "kustomize", folder, cwd=project)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@dataclass
class Cluster:
    """An API server, and the folder with its kubeconfig and the `kubectl` that speaks to it."""

    folder: Path
    url: str
    token: str = "admin-token"
    never_ready: set[str] = field(default_factory=set)  # parts of images whose pods do not start
    why: str = "Back-off pulling image"

    @property
    def env(self) -> dict[str, str]:
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        return {"KUBECONFIG": f"{self.folder}/kubeconfig", "PATH": path, "POD": "true"}

    def kubectl(
        self, *args: str | Path, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = execute("kubectl", *args, cwd=self.folder, env=self.env, input=input)
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(map(str, args))}\n{done.stdout}\n{done.stderr}")
        return done

    def get(self, *args: str) -> Document:
        found: Document = json.loads(self.kubectl("get", *args, "-o", "json").stdout)
        return found


class Controllers(threading.Thread):
    """Stand in for controllers, scheduler and kubelet: Deployments become ready, or do not."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.ended = threading.Event()
        insecure = ssl.create_default_context()
        insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
        headers = {"Authorization": f"Bearer {cluster.token}"}
        self.api = httpx.Client(base_url=cluster.url, headers=headers, verify=insecure)

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for deployment in self.api.get("/apis/apps/v1/deployments").json()["items"]:
                if deployment["metadata"]["generation"] != deployment.get("status", {}).get(
                    "observedGeneration"
                ):
                    self.carry_out(deployment)

    def carry_out(self, deployment: Document) -> None:
        """Make what a new template leads to: a ReplicaSet, a pod, and the Deployment's status."""
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        core = f"/api/v1/namespaces/{metadata['namespace']}"
        apps = f"/apis/apps/v1/namespaces/{metadata['namespace']}"
        container = template["spec"]["containers"][0]
        bad = any(part in container["image"] for part in self.cluster.never_ready)
        name = f"api-{sha256(json.dumps(template).encode()).hexdigest()[:8]}"
        labels = template["metadata"]["labels"] | {"pod-template-hash": name[4:]}
        template = template | {"metadata": {"labels": labels}}
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
        owner |= {"name": metadata["name"], "uid": metadata["uid"]}
        revision = {"deployment.kubernetes.io/revision": str(metadata["generation"])}
        meta = {"name": name, "labels": labels, "annotations": revision, "ownerReferences": [owner]}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        self.api.delete(f"{apps}/replicasets/{name}")
        self.api.post(f"{apps}/replicasets", json={"metadata": meta, "spec": spec})
        merge = {"Content-Type": "application/merge-patch+json"}
        self.api.patch(
            f"{apps}/deployments/api", json={"metadata": {"annotations": revision}}, headers=merge
        )
        self.api.delete(f"{core}/pods/{name}", params={"gracePeriodSeconds": 0})
        pod = {"metadata": {"name": name, "labels": labels}, "spec": template["spec"]}
        answer = self.api.post(f"{core}/pods", json=pod)
        assert answer.status_code == 201, answer.text
        waiting = {"reason": "ImagePullBackOff", "message": self.cluster.why}
        state = {"waiting": waiting} if bad else {"running": {}}
        of_container = {"name": "api", "ready": not bad, "restartCount": 0, "state": state}
        of_container |= {"image": container["image"], "imageID": ""}
        phase = "Pending" if bad else "Running"
        self.api.patch(
            f"{core}/pods/{name}/status",
            json={"status": {"phase": phase, "containerStatuses": [of_container]}},
            headers=merge,
        )
        if not bad:  # the others end
            for other in self.api.get(f"{core}/pods").json()["items"]:
                if other["metadata"]["name"] != name:
                    path = f"{core}/pods/{other['metadata']['name']}"
                    self.api.delete(path, params={"gracePeriodSeconds": 0})
        found = self.api.get(f"{apps}/deployments/api").json()["metadata"]["generation"]
        progress = {"type": "Progressing", "status": "False" if bad else "True"}
        progress["reason"] = "ProgressDeadlineExceeded" if bad else "NewReplicaSetAvailable"
        ready = 0 if bad else 1
        status = {"observedGeneration": found, "replicas": 1, "updatedReplicas": 1}
        status |= {"readyReplicas": ready, "availableReplicas": ready, "conditions": [progress]}
        self.api.patch(f"{apps}/deployments/api/status", json={"status": status}, headers=merge)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Give a cluster of its own in a new folder."""
    program = os.environ.get(SERVER)
    if not program:
        pytest.skip(f"no Kubernetes API server: {SERVER} names no program that starts one")
    real = need_program("kubectl")
    (folder / "bin").mkdir(parents=True)
    wrapper = folder / "bin/kubectl"
    wrapper.write_text(
        KUBECTL.format(kubectl=real, python=sys.executable, here=STANDIN), encoding="utf-8"
    )
    wrapper.chmod(0o755)
    done = execute(program, "up", folder, cwd=TEMPLATE, timeout=1800)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((folder / "kubeconfig").read_text("utf-8"))
    cluster = Cluster(folder, config["clusters"][0]["cluster"]["server"])
    controllers = Controllers(cluster)
    controllers.start()
    try:
        yield cluster
    finally:
        controllers.ended.set()
        controllers.join()
        execute(program, "down", folder, cwd=TEMPLATE)
