"""Probe: the bundle in the real server, in the environment that production has, before it is crowned."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Gates, LatencyGate, ServerGate
from mlops_loop.base.project import current_project
from mlops_loop.contract.limits import MAX_ROWS
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.cast import check_rows
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

TOLERANCE = 1e-6  # between an answer over HTTP and the scorer's, relative to numbers beyond 1
WARM_UP = 10  # requests that are not timed
SECONDS = 30  # that an answer, or the end of the server, may take
Request = tuple[
    str, str, str, bytes, bool, bool
]  # what it is, method, path, body, with key, acceptable


class Unready(Failure):
    """The server does not start, or not in time."""


def project_folder() -> Path:
    """Return the project's folder, whose lock file says what the server runs on."""
    package = find_spec(current_project().model.partition(".")[0])
    for folder in Path(package.origin or "").resolve().parents if package else ():
        if (folder / "uv.lock").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    raise Failure("no pyproject.toml with a uv.lock above the project's package: run it there")


def serving_command(group: str = "serve") -> Path:
    """Return the project's command in the serving environment, brought in step with the lock file.

    The environment is what `deploy/Dockerfile` installs of that group, and nothing else.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Failure("uv is not on PATH: install it (docs.astral.sh/uv), or set UV to where it is")
    root = project_folder()
    place = root / "build" / group.replace("serve", "serving-env")
    command = [uv, "sync", "--quiet", "--project", str(root), "--frozen"]
    command += ["--no-default-groups", "--group", group]
    done = subprocess.run(
        command,
        env=outside() | {"UV_PROJECT_ENVIRONMENT": str(place)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"uv ended with {done.returncode}"
        raise Failure(f"the serving environment {place} cannot be made: {reason}")
    name = current_project().name
    return place / (f"Scripts/{name}.exe" if os.name == "nt" else f"bin/{name}")


def outside() -> dict[str, str]:
    """Return the environment variables without those that lead back into this process's environment."""
    inner = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in inner}


@contextmanager
def server(
    bundle: Path, log_url: str, output: Path, timeout: float = 60, **more: str
) -> Iterator[tuple[str, requests.Session]]:
    """Run the real server with a bundle on a free loopback port; give its address and a client with a key.

    Predictions are logged at `log_url`; what the server prints goes to the file `output`; `more` are settings
    of its environment. Raises Unready, with the last line of that, if the server is not ready within
    `timeout` seconds.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = "serve-skops" if (bundle / "model.skops").is_file() else "serve"
    command = [str(serving_command(group)), "serve", "--port", port]
    client, address = requests.Session(), f"http://127.0.0.1:{port}"
    client.trust_env = False  # no proxy
    client.headers["X-API-Key"] = key = secrets.token_urlsafe(16)
    settings = {
        "API_KEYS": f"probe:{key}",
        "BUNDLE": str(bundle.resolve()),
        "PREDICTION_LOG_URL": log_url,
    }
    settings |= {"PREDICTION_SPOOL": str(output.with_suffix(".spool"))}
    settings |= {"API_KEYS_FILE": "", "RATE_LIMIT": "0", "TRAFFIC": ""}  # those are for clients
    settings |= more
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=outside() | settings, stdout=log, stderr=log)
    try:
        end = time.monotonic() + timeout
        while not ready(address, client):
            if process.poll() is not None:
                raise Unready(f"the server does not start: {last_line(output)}")
            if time.monotonic() > end:
                raise Unready(
                    f"the server was not ready within {timeout:g} seconds: {last_line(output)}"
                )
            time.sleep(0.05)
        yield address, client
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:  # it hangs
            process.kill()
            process.wait()


def ready(address: str, client: requests.Session) -> bool:
    return ask(client, "GET", f"{address}/health/ready")[0] == 200


def last_line(output: Path) -> str:
    lines = [
        line
        for line in output.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1].strip() if lines else "it said nothing"


def ask(client: requests.Session, method: str, url: str, **options: Any) -> tuple[int, bytes]:
    """Return an answer's status and body; the status is 0 if there is no answer."""
    try:
        answer = client.request(method, url, timeout=SECONDS, **options)
    except requests.RequestException:
        return 0, b""
    return answer.status_code, answer.content


def as_json(table: pd.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """Return the rows as the API takes them, with null for missing values."""
    kinds: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "category": str}
    typed = {
        name: [None if pd.isna(value) else kinds[column.type](value) for value in table[name]]
        for name, column in schema.features.items()
    }
    return [dict(zip(typed, row, strict=True)) for row in zip(*typed.values(), strict=True)]


def sample(window: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return random rows of the window that keep the contract: `mostly` lets some rows break it."""
    some = window.sample(min(2 * rows, len(window)), random_state=0)
    _, reasons = check_rows(some[list(schema.features)], schema.features)
    return some[(reasons == "").to_numpy()].head(rows)


def query(
    address: str, client: requests.Session, rows: list[dict[str, Any]]
) -> tuple[list[Any], np.ndarray]:
    """Ask for one row at a time; return the predictions (None for an error) and the milliseconds of each."""
    found, taken = list[Any](), list[float]()
    for row in [*rows[:WARM_UP], *rows]:
        started = time.perf_counter()
        status, body = ask(client, "POST", f"{address}/v1/predict", json={"rows": [row]})
        taken.append((time.perf_counter() - started) * 1000)
        found.append(json.loads(body)["predictions"][0] if status == 200 else None)
    warm = len(found) - len(rows)
    return found[warm:], np.array(taken[warm:])


def alike(answer: Any, expected: Any) -> bool:
    """Return whether two answers say the same; numbers may differ by TOLERANCE."""
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            alike(answer.get(key), expected[key]) for key in expected
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(map(alike, answer, expected))
        )
    if isinstance(expected, float):
        number = isinstance(answer, int | float)
        return number and bool(abs(answer - expected) <= TOLERANCE * max(1, abs(expected)))
    return bool(answer == expected)


def valid_value(column: Column, random: np.random.Generator) -> Any:
    """Return a value at the edge of what the contract allows."""
    low, high = column.limits
    kinds: dict[str, list[Any]] = {
        "number": [low, high, float(random.uniform(low, high))],
        "integer": [int(np.ceil(max(low, -(2**53)))), int(np.floor(min(high, 2**53)))],
        "boolean": [True, False],
        "category": list(column.categories or ())
        + ["no such category", "é\u2028\U0001f600"] * column.allow_unknown,
    }
    values = kinds[column.type]
    return (values + [None] * column.nullable)[random.integers(len(values) + column.nullable)]


def invalid_value(column: Column, random: np.random.Generator) -> Any:
    """Return a value of the wrong type, out of range, unknown, or missing where it must not be."""
    low, high = column.limits
    beyond = [
        low - abs(low) * 0.01 - 1,
        high + abs(high) * 0.01 + 1,
        1e300,
        -(10**400),
        float("nan"),
        np.inf,
    ]
    kinds: dict[str, list[Any]] = {
        "number": [*beyond, "far", True],
        "integer": [*beyond, 0.5, "far", True],
        "boolean": ["maybe", 7, float("nan")],
        "category": [7.5, float("nan"), True] + ["no such category"] * (not column.allow_unknown),
    }
    values = kinds[column.type] + [[], {}, [[1]], {"$ne": None}] + [None] * (not column.nullable)
    return values[random.integers(len(values))]


def requests_of(schema: Schema, example: dict[str, Any]) -> Iterator[Request]:
    """Give requests that keep the contract, and some that break it, without end and always the same."""
    random, features = np.random.default_rng(0), list(schema.features)
    needed = [name for name in features if not schema.features[name].nullable]
    good = json.dumps({"rows": [example]}).encode()

    def post(what: str, row: Any, acceptable: bool = False) -> Request:
        return what, "POST", "/v1/predict", json.dumps({"rows": row}).encode(), True, acceptable

    def odd(
        what: str, body: bytes, method: str = "POST", key: bool = True, path: str = "predict"
    ) -> Request:
        return what, method, f"/v1/{path}", body, key, False

    broken = [
        odd("no key", good, key=False),
        odd("an empty body", b""),
        odd("no JSON", b'{"rows": ['),
        odd("no text", b"\xff\xfe\x00"),
        odd("a number of 5,000 digits", b'{"rows": [' + b"9" * 5000 + b"]}"),
        odd("deeply nested lists", b"[" * 100_000),
        odd("no object", b"[1, 2, 3]"),
        odd("GET", good, method="GET"),
        odd("DELETE", b"", method="DELETE"),
        odd("an unknown path", good, path="train"),
        post("no rows", []),
        post("rows that are none", "all of them"),
        post("a row that is null", [None]),
        post("too many rows", [example] * (MAX_ROWS + 1)),
        post("an unknown column", [example | {"no such column": 1}]),
        odd("another key beside rows", json.dumps({"rows": [example], "model": "other"}).encode()),
        *(
            post(
                f"a row without {name}",
                [{key: value for key, value in example.items() if key != name}],
            )
            for name in needed[:3]
        ),
    ]
    number = 0
    while True:
        name = features[number % len(features)]
        row = {key: valid_value(column, random) for key, column in schema.features.items()}
        less = {key: value for key, value in row.items() if value is not None}
        yield post("a row at the contract's edges", [row, less], acceptable=True)
        wrong = invalid_value(schema.features[name], random)
        yield post(f"{name} = {str(wrong)[:20]}", [example | {name: wrong}])
        yield broken[number % len(broken)]
        number += 1


def fuzz(
    address: str, client: requests.Session, schema: Schema, example: dict[str, Any], count: int
) -> list[str]:
    """Send `count` odd requests; return what was answered wrongly.

    What the contract allows must be answered (200), all else refused as the client's mistake (4xx).
    """
    wrong, key = [], client.headers["X-API-Key"]
    for what, method, path, body, with_key, acceptable in islice(
        requests_of(schema, example), count
    ):
        headers = {"Content-Type": "application/json", "X-API-Key": key if with_key else None}
        status, _ = ask(client, method, f"{address}{path}", data=body, headers=headers)
        if status != 200 if acceptable else not 400 <= status < 500:
            wrong.append(f"{what}: {status or 'no answer'}")
    if not ready(address, client):
        wrong.append("afterwards: not ready")
    return wrong


def verdicts(bundle: Bundle, window: pd.DataFrame, gates: Gates) -> list[GateResult]:
    """Return whether the bundle's folder starts in the real server, answers as the bundle, and fast enough.

    The server is a fresh process of the serving environment with a prediction log of its own. A
    bundle that does not start is refused; a missing environment is a Failure.
    """
    limits, latency = gates.server, gates.latency
    if limits is None:
        why = "not measured, as gates.server is off" if latency else "off"
        return [
            GateResult("server", "off", None, "", None),
            GateResult("latency", why, None, "", None),
        ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, started = Path(name), time.monotonic()
        log_url = f"sqlite:///{(folder / 'probe.db').as_posix()}"
        try:
            with server(bundle.folder, log_url, folder / "server.log", limits.timeout) as (
                address,
                client,
            ):
                seconds = time.monotonic() - started
                begun = compare(
                    "server",
                    "seconds until it is ready",
                    min(seconds, limits.timeout),
                    "<=",
                    limits.timeout,
                )
                return [begun, *questions(address, client, bundle, window, limits, latency)]
        except Unready as reason:
            not_measured = GateResult(
                "latency", "not measured, as the server does not start", None, "", None
            )
            return [GateResult("server", str(reason), None, "", False), not_measured]


def questions(
    address: str,
    client: requests.Session,
    bundle: Bundle,
    window: pd.DataFrame,
    limits: ServerGate,
    latency: LatencyGate | None,
) -> list[GateResult]:
    """Return the verdicts on a running server: its answers, what it does with odd requests, and its speed."""
    chosen = sample(window, bundle.schema, limits.requests)
    expected = open_scorer(bundle).score(columns(chosen, bundle.schema))
    answers, milliseconds = query(address, client, as_json(chosen, bundle.schema))
    differ = sum(not alike(answer, right) for answer, right in zip(answers, expected, strict=True))
    wrong = fuzz(address, client, bundle.schema, bundle.manifest["example"], limits.fuzz)
    odd = f"of {limits.fuzz} odd requests, answered wrongly" + "".join(
        f" ({first})" for first in wrong[:1]
    )
    found = [
        compare("server", f"of {len(answers)} answers, other than the model's", differ, "<=", 0),
        compare("server", odd, len(wrong), "<=", 0),
    ]
    if latency is None:
        return [*found, GateResult("latency", "off", None, "", None)]
    slow, limit = float(np.percentile(milliseconds, 95)), latency.p95_milliseconds
    what = f"95th percentile of {len(answers)} requests with one row, ms"
    return [*found, compare("latency", what, slow, "<=", limit)]
