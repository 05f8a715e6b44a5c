"""A stand-in for the APIs of Google Cloud, so that the real gcloud can create, list and describe.

It keeps what is sent to it by its path, and knows no rule of any service: what it proves is that
gcloud takes the commands and the files, and what it makes of them.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SERVICES = """artifactregistry cloudbuild clouddeploy cloudkms cloudresourcemanager
    cloudscheduler iam run secretmanager serviceusage"""
IDS = ("repositoryId", "secretId", "keyRingId", "cryptoKeyId", "releaseId", "rolloutId")
# Of these the API answers with an operation.
LATER = "repositories", "releases", "rollouts", "deliveryPipelines", "targets", "automations"


class Cloud:
    """What was created, by its path; policies by the path of what they are of."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {"projects/p": {"projectId": "p"}}
        self.policies: dict[str, dict[str, Any]] = {}
        self.enabled: set[str] = set()
        self.asked: list[str] = []

    def environment(self, url: str) -> dict[str, str]:
        """Return what leads gcloud here."""
        override = "CLOUDSDK_API_ENDPOINT_OVERRIDES_"
        places = {f"{override}{name.upper()}": f"{url}/" for name in SERVICES.split()}
        return places | {
            f"{override}STORAGE": f"{url}/storage/v1/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        }

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = unquote(parts.path).strip("/").removeprefix("storage/")
        path = path.partition("/")[2]  # without the version
        self.asked.append(f"{method} {path}")
        path, _, verb = path.partition(":")
        if path.startswith("b/") and path.endswith("/iam"):
            path, verb = path.removesuffix("/iam"), "setIamPolicy" if body else "getIamPolicy"
            body = {"policy": body}
        if path.startswith(("projects/p/services", "operations")):
            return self.services(verb, body)
        if verb:
            return self.policy(path, verb, body)
        if method == "GET":
            return self.get(path)
        if method == "PATCH" and path not in self.things and "allowMissing" not in query:
            return missing(path)
        if method == "POST":
            path = self.path_of(path, query, body)
        self.things[path] = thing = {**body, "name": path}
        if path.startswith("b/"):
            thing |= {"name": path[2:], "projectNumber": "1"}
        if "serviceAccounts" in path:
            thing |= {"email": path.rpartition("/")[2]}
        if path.split("/")[-2] in LATER:
            name = "/".join([*path.split("/")[:4], "operations", "o"])
            self.things[name] = {"name": name, "done": True, "response": {"@type": "x", **thing}}
            return 200, self.things[name]
        if path.split("/")[-2] == "triggers":
            thing |= {"name": path.rpartition("/")[2], "id": path.rpartition("/")[2]}
        return 200, thing

    def path_of(self, path: str, query: dict[str, str], body: dict[str, Any]) -> str:
        """Return where a created thing lies."""
        if "accountId" in body:
            return f"{path}/{body['accountId']}@p.iam.gserviceaccount.com"
        name = next((query[key] for key in IDS if key in query), None) or body["name"]
        return f"{path}/{name.rpartition('/')[2]}"

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path in self.things:
            return 200, self.things[path]
        if len(path.split("/")) % 2 == 0:
            return missing(path)
        kind = {"serviceAccounts": "accounts"}.get(path.rpartition("/")[2], path.rpartition("/")[2])
        depth = path.count("/") + 1
        found = [
            thing
            for name, thing in self.things.items()
            if name.startswith(path + "/") and name.count("/") == depth
        ]
        return 200, {kind: found}

    def policy(self, path: str, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path not in self.things:
            return missing(path)
        if verb == "setIamPolicy":
            self.policies[path] = body["policy"]
        return 200, self.policies.get(path, {"etag": "AAA="})

    def services(self, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.enabled |= set(body.get("serviceIds", []))
        if verb:
            return 200, {"name": "operations/o", "done": True, "response": {"@type": "x"}}
        names = sorted(self.enabled)
        return 200, {"services": [{"config": {"name": n}, "state": "ENABLED"} for n in names]}


def missing(path: str) -> tuple[int, dict[str, Any]]:
    return 404, {"error": {"code": 404, "message": f"no {path}", "status": "NOT_FOUND"}}


@contextmanager
def google_cloud() -> Iterator[tuple[Cloud, dict[str, str]]]:
    """Serve an empty project `p` on loopback; give it, and the environment for gcloud."""
    cloud = Cloud()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, answer = cloud.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = reply  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield cloud, cloud.environment(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
