"""The real server, started with a bundle in the environment that production has."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project, package_folder

SECONDS = 30  # that an answer, or the end of the server, may take


class Unready(Failure):
    """The server does not start, or not in time."""


def find_uv() -> str:
    if uv := os.environ.get("UV") or shutil.which("uv"):
        return uv
    raise Failure("uv is not on PATH: install it (docs.astral.sh/uv), or set UV to where it is")


def serving_command(group: str = "serve") -> Path:
    """Return the project's command in the serving environment, brought in step with the lock file.

    The environment is what `deploy/Dockerfile` installs of that group, and nothing else.
    """
    uv = find_uv()
    above = (folder for folder in package_folder().parents if (folder / "uv.lock").is_file())
    if (root := next(above, None)) is None:
        raise Failure("no uv.lock above the project's package: run it there")
    place = root / "build" / group.replace("serve", "serving-env")
    command = [uv, "sync", "--quiet", "--project", str(root), "--frozen"]
    command += ["--no-default-groups", "--group", group]
    env = outside() | {"UV_PROJECT_ENVIRONMENT": str(place)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"uv ended with {done.returncode}"
        raise Failure(f"the serving environment {place} cannot be made: {reason}")
    name = current_project().name
    return place / (f"Scripts/{name}.exe" if os.name == "nt" else f"bin/{name}")


def outside() -> dict[str, str]:
    """Return the environment variables without those of this process's virtual environment."""
    inner = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in inner}


@contextmanager
def server(
    bundle: Path, log_url: str, output: Path, timeout: float = 60
) -> Iterator[tuple[str, requests.Session]]:
    """Run the real server on a free loopback port; give its address and a client with a key.

    Predictions are logged at `log_url`; what the server prints goes to the file `output`. Raises
    Unready, with the last line of that output, if it is not ready within `timeout` seconds.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    group = "serve-skops" if (bundle / "model.skops").is_file() else "serve"
    command = [str(serving_command(group)), "serve", "--port", port]
    client = requests.Session()
    client.trust_env = False  # no proxy
    client.headers["X-API-Key"] = key = secrets.token_urlsafe(16)
    settings = {
        "API_KEYS": f"smoke-test:{key}",
        "BUNDLE": str(bundle.resolve()),
        "PREDICTION_LOG_URL": log_url,
        "PREDICTION_SPOOL": str(output.with_suffix(".spool")),
        **{"API_KEYS_FILE": "", "RATE_LIMIT": "0", "TRAFFIC": ""},  # those are for clients
    }
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=outside() | settings, stdout=log, stderr=log)
    try:
        wait_until_ready(process, lambda: ready(address, client), output, timeout)
        yield address, client
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:  # it hangs
            process.kill()
            process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], is_ready: Callable[[], bool], output: Path, timeout: float
) -> None:
    end = time.monotonic() + timeout
    while not is_ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > end:
            said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            late = f"the server was not ready within {timeout:g} seconds"
            why = "the server does not start" if ended else late
            raise Unready(f"{why}: {said[-1].strip() if said else 'it said nothing'}")
        time.sleep(0.05)


def ready(address: str, client: requests.Session) -> bool:
    try:
        return client.get(f"{address}/health/ready", timeout=SECONDS).ok
    except requests.RequestException:
        return False


def predict(address: str, client: requests.Session, row: Mapping[str, object]) -> tuple[int, bytes]:
    """Request the prediction of a row; return the answer's status, 0 if there is none, and body."""
    try:
        answer = client.post(f"{address}/v1/predict", json={"rows": [row]}, timeout=SECONDS)
    except requests.RequestException:
        return 0, b""
    return answer.status_code, answer.content
