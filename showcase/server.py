"""The real server of the project, and requests that keep coming while its model changes."""

import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from subprocess import Popen

import httpx

from showcase.processes import Failure
from showcase.project import Workspace
from showcase.story import Swap

SECONDS = 60  # that an answer may take
PATIENCE = 120  # seconds until something that must come has come
PAUSE = 0.05  # seconds between two requests while models change


def wait_for(found: Callable[[], bool], what: str) -> None:
    """Return when it is found; Failure if that takes too long."""
    end = time.monotonic() + PATIENCE
    while not found():
        if time.monotonic() > end:
            raise Failure(f"after {PATIENCE} seconds there still is no sign of {what}")
        time.sleep(0.1)


@contextmanager
def serving(workspace: Workspace, **settings: str) -> Iterator[httpx.Client]:
    """Run the server of a workspace on a free loopback port; give a client of it with a key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    key = secrets.token_urlsafe(16)
    found = {**workspace.settings, "API_KEYS": f"showcase:{key}", **settings}
    environment = replace(workspace, settings=found).environment
    command = workspace.command(workspace.slug, "serve", "--port", port)
    with (
        (workspace.folder / "server.log").open("a", encoding="utf-8") as log,
        workspace.processes.started(command, workspace.folder, environment, log, log) as process,
        new_client(f"http://127.0.0.1:{port}", key) as client,
    ):
        wait_for(lambda: ready(client, process), "the server")
        yield client


def new_client(address: str, key: str) -> httpx.Client:
    headers = {"X-API-Key": key}
    return httpx.Client(base_url=address, headers=headers, timeout=SECONDS, trust_env=False)


def ready(client: httpx.Client, process: Popen[str]) -> bool:
    if process.poll() is not None:
        raise Failure(f"the server ended with {process.returncode}: see its server.log")
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_for_version(client: httpx.Client, version: str) -> None:
    """Return when the server answers with this version."""
    wait_for(
        lambda: str(client.get("/v1/model").json()["version"]) == version,
        f"answers of version {version}",
    )


class Requests:
    """One request after the other until `end` is set; counts of their statuses, and versions."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.versions: list[str] = []

    def send(self, client: httpx.Client, row: dict[str, object]) -> None:
        with new_client(str(client.base_url), client.headers["X-API-Key"]) as own:
            while not self.end.is_set():
                try:
                    answer = own.post("/v1/predict", json={"rows": [row]})
                    self.statuses[answer.status_code] += 1
                    version = str(answer.json().get("model_version", ""))
                except (httpx.HTTPError, ValueError):
                    self.statuses[0] += 1
                    version = ""
                if version and version not in self.versions[-1:]:
                    self.versions.append(version)
                self.end.wait(PAUSE)


@contextmanager
def under_traffic(
    workspace: Workspace,
    client: httpx.Client,
    row: dict[str, object],
    what: str,
    swaps: list[Swap],
) -> Iterator[None]:
    """Send requests meanwhile, until the server answers as the champion; add them to `swaps`."""
    requests = Requests()
    thread = threading.Thread(target=requests.send, args=(client, row), daemon=True)
    thread.start()
    try:
        yield
        wait_for_version(client, workspace.version())
        time.sleep(2 * PAUSE)
    finally:
        requests.end.set()
        thread.join(SECONDS)
    sent = requests.statuses.total()
    swaps.append(Swap(what, sent, sent - requests.statuses[200], tuple(requests.versions)))
