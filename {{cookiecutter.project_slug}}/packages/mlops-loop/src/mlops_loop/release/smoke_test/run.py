"""The smoke test: start a bundle in the real server, compare and time its answers, fuzz it."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import requests
from numpy.typing import NDArray
from pydantic import JsonValue

from mlops_loop.base.params import ServerGate
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Row
from mlops_loop.data.cast import check_rows
from mlops_loop.data.tables import as_json
from mlops_loop.release.smoke_test.odd_requests import fuzz
from mlops_loop.release.smoke_test.server import Unready, send, server
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

TOLERANCE = 1e-6  # between an answer over HTTP and the scorer's, relative to numbers beyond 1
WARM_UP = 10  # requests that are not timed


@dataclass(frozen=True)
class Answers:
    """How a running server answers."""

    predictions: int  # requests with a row that keeps the contract
    differing: int  # of these, answered otherwise than the bundle's model does
    milliseconds: NDArray[np.float64]  # of each of these
    odd: int  # requests sent to break it
    wrong: list[str]  # of these, answered wrongly


@dataclass(frozen=True)
class SmokeTest:
    """What came of starting a bundle; without `answers`, why it did not start."""

    answers: Answers | None
    seconds: float = 0.0  # until it was ready
    reason: str = ""


def run(bundle: Bundle, window: pd.DataFrame, limits: ServerGate) -> SmokeTest:
    """Start the bundle in a fresh process of the serving environment, with an own log.

    A missing environment is a Failure.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        started = time.monotonic()
        log_url = f"sqlite:///{(folder / 'smoke-test.db').as_posix()}"
        output = folder / "server.log"
        try:
            with server(bundle.folder, log_url, output, limits.timeout) as (address, client):
                seconds = time.monotonic() - started
                return SmokeTest(check(address, client, bundle, window, limits), seconds)
        except Unready as reason:
            return SmokeTest(None, reason=str(reason))


def check(
    address: str,
    client: requests.Session,
    bundle: Bundle,
    window: pd.DataFrame,
    limits: ServerGate,
) -> Answers:
    """Return how a running server answers rows of the window, and odd requests."""
    schema = bundle.schema
    chosen = sample(window, schema, limits.requests)
    expected = open_scorer(bundle).score(columns(chosen, schema))
    found, milliseconds = predict(address, client, as_json(chosen, schema))
    differing = sum(not close(answer, right) for answer, right in zip(found, expected, strict=True))
    wrong = fuzz(address, client, schema, bundle.manifest.example, limits.fuzz)
    return Answers(len(found), differing, milliseconds, limits.fuzz, wrong)


def sample(window: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return random rows of the window that keep the contract: `mostly` lets some rows break it."""
    some = window.sample(min(2 * rows, len(window)), random_state=0)
    _, reasons = check_rows(some[list(schema.inputs)], schema.inputs)
    return some[(reasons == "").to_numpy()].head(rows)


def predict(
    address: str, client: requests.Session, rows: Sequence[Row]
) -> tuple[list[JsonValue], NDArray[np.float64]]:
    """Request one row at a time; return predictions (None for an error) and milliseconds."""
    found = list[JsonValue]()
    taken = list[float]()
    for row in [*rows[:WARM_UP], *rows]:
        started = time.perf_counter()
        status, body = send(client, "POST", f"{address}/v1/predict", json={"rows": [row]})
        taken.append((time.perf_counter() - started) * 1000)
        found.append(json.loads(body)["predictions"][0] if status == 200 else None)
    warm = len(found) - len(rows)
    return found[warm:], np.array(taken[warm:])


def close(answer: object, expected: object) -> bool:
    """Return whether two answers say the same; numbers may differ by TOLERANCE."""
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            close(answer.get(key), expected[key]) for key in expected
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(map(close, answer, expected))
        )
    if isinstance(expected, float):
        if not isinstance(answer, int | float):
            return False
        return abs(answer - expected) <= TOLERANCE * max(1, abs(expected))
    return bool(answer == expected)
