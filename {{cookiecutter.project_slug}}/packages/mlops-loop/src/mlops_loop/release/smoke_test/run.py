"""The smoke test: start a bundle in the real server, compare and time its answers, fuzz it."""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import requests
from pydantic import JsonValue

from mlops_loop.base.params import Gates, LatencyGate, ServerGate
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Row
from mlops_loop.data.cast import check_table
from mlops_loop.data.tables import as_json
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.smoke_test.odd_requests import fuzz
from mlops_loop.release.smoke_test.server import Unready, send, server
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

TOLERANCE = 1e-6  # between an answer over HTTP and the scorer's, relative to numbers beyond 1
WARM_UP = 10  # requests that are not timed


def smoke_test(bundle: Bundle, window: pd.DataFrame, gates: Gates) -> list[GateResult]:
    """Return what the gates `server` and `latency` say of a bundle.

    It is started in a fresh process of the serving environment, with a log of its own. A missing
    environment is a Failure.
    """
    limits = gates.server
    if limits is None:
        why = "not measured, as gates.server is off" if gates.latency else "off"
        return [GateResult("server", "off"), GateResult("latency", why)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        log = Path(name) / "smoke-test.db"
        running = server(
            bundle.folder, f"sqlite:///{log.as_posix()}", log.with_suffix(".log"), limits.timeout
        )
        try:
            with running as (address, client):
                started = f"seconds until it is ready, at most {limits.timeout:g}"
                ready = GateResult("server", started, time.monotonic() - began, passed=True)
                return [ready, *check(address, client, bundle, window, limits, gates.latency)]
        except Unready as reason:
            why = "not measured, as the server does not start"
            return [GateResult("server", str(reason), passed=False), GateResult("latency", why)]


def check(
    address: str,
    client: requests.Session,
    bundle: Bundle,
    window: pd.DataFrame,
    limits: ServerGate,
    latency: LatencyGate | None,
) -> list[GateResult]:
    """Judge how a running server answers rows of the window, and odd requests."""
    schema = bundle.schema
    chosen = sample(window, schema, limits.requests)
    expected = open_scorer(bundle).score(columns(chosen, schema))
    found, milliseconds = predict(address, client, as_json(chosen, schema))
    differing = sum(not close(answer, right) for answer, right in zip(found, expected, strict=True))
    wrong = fuzz(address, client, schema, bundle.manifest.example, limits.fuzz)
    first = f" ({wrong[0]})" if wrong else ""
    other = f"of {len(found)} answers, other than the model's"
    odd = f"of {limits.fuzz} odd requests, answered wrongly{first}"
    time_taken = GateResult("latency", "off")
    if latency:
        measure = f"95th percentile of {len(found)} requests with one row, ms"
        slow = float(np.percentile(milliseconds, 95))
        time_taken = compare("latency", measure, slow, "<=", latency.p95_milliseconds)
    return [
        compare("server", other, differing, "<=", 0),
        compare("server", odd, len(wrong), "<=", 0),
        time_taken,
    ]


def sample(window: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return random rows of the window that keep the contract: `mostly` lets some rows break it."""
    some = window.sample(min(2 * rows, len(window)), random_state=0)
    given = pa.Table.from_pandas(some[list(schema.inputs)], preserve_index=False)
    _, reasons = check_table(given, schema.inputs)
    return some[reasons == ""].head(rows)


def predict(
    address: str, client: requests.Session, rows: Sequence[Row]
) -> tuple[list[JsonValue], list[float]]:
    """Request one row at a time; return predictions (None for an error) and milliseconds."""
    found = list[JsonValue]()
    taken = list[float]()
    for row in [*rows[:WARM_UP], *rows]:
        started = time.perf_counter()
        status, body = send(client, "POST", f"{address}/v1/predict", json={"rows": [row]})
        taken.append((time.perf_counter() - started) * 1000)
        found.append(json.loads(body)["predictions"][0] if status == 200 else None)
    return found[-len(rows) :], taken[-len(rows) :]


def close(answer: object, expected: object) -> bool:
    """Return whether two answers say the same; numbers may differ by TOLERANCE."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return all(close(answer.get(key), value) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(answer, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float) and isinstance(answer, int | float):
        return math.isclose(answer, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(answer == expected)
