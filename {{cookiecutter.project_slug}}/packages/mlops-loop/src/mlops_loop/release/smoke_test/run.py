"""The smoke test: start a bundle in the real server, compare and time its answers, fuzz it."""

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import requests
from pydantic import JsonValue

from mlops_loop.base.params import Gates, LatencyGate, ServerGate
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row, Value
from mlops_loop.data.cast import check_table
from mlops_loop.data.tables import as_json
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.smoke_test.server import Unready, predict, ready, server
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

TOLERANCE = 1e-6  # between an answer over HTTP and the scorer's, relative to numbers beyond 1
WARM_UP = 10  # requests that are not timed
WRONG: dict[str, list[object]] = {  # values of another type, or that no contract allows
    "number": ["far", True],
    "integer": [0.5, "far"],
    "boolean": ["maybe", 7],
    "category": [7.5, True],
    "timestamp": ["yesterday", "2024-02-30T00:00:00"],
}


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
        url = f"sqlite:///{log.as_posix()}"
        try:
            with server(bundle.folder, url, log.with_suffix(".log"), limits.timeout) as running:
                started = f"seconds until it is ready, at most {limits.timeout:g}"
                seconds = time.monotonic() - began
                began_well = GateResult("server", started, seconds, passed=True)
                return [began_well, *check(*running, bundle, window, limits, gates.latency)]
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
    rows = as_json(chosen, schema)
    for row in rows[:WARM_UP]:
        predict(address, client, row)
    found = list[JsonValue]()
    milliseconds = list[float]()
    for row in rows:
        started = time.perf_counter()
        status, body = predict(address, client, row)
        milliseconds.append((time.perf_counter() - started) * 1000)
        found.append(json.loads(body)["predictions"][0] if status == 200 else None)
    expected = open_scorer(bundle).score(columns(chosen, schema))
    differing = sum(not close(answer, right) for answer, right in zip(found, expected, strict=True))
    wrong = fuzz(address, client, schema, bundle.manifest.example, limits.fuzz)
    first = f" ({wrong[0]})" if wrong else ""
    time_taken = GateResult("latency", "off")
    if latency:
        measure = f"95th percentile of {len(found)} requests with one row, ms"
        slow = float(np.percentile(milliseconds, 95))
        time_taken = compare("latency", measure, slow, "<=", latency.p95_milliseconds)
    other = f"of {len(found)} answers, other than the model's"
    odd = f"of {limits.fuzz} odd requests, answered wrongly{first}"
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


def close(answer: object, expected: object) -> bool:
    """Return whether two answers say the same; numbers may differ by TOLERANCE."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return all(close(answer.get(key), value) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(answer, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float) and isinstance(answer, int | float):
        return math.isclose(answer, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(answer == expected)


class Odd(NamedTuple):
    about: str
    row: Mapping[str, object]
    acceptable: bool = False


def fuzz(
    address: str, client: requests.Session, schema: Schema, example: Row, number: int
) -> list[str]:
    """Send `number` odd requests; return which ones the server answers wrongly.

    It must answer what the contract allows (200), but for rows from which a value is derived that
    the contract forbids, and refuse all else as the client's mistake (4xx).
    """
    wrong = []
    for odd in islice(odd_requests(schema, example), number):
        status, body = predict(address, client, odd.row)
        answered = status == 200 or (status == 422 and b"is derived from this row" in body)
        if not answered if odd.acceptable else not 400 <= status < 500:
            wrong.append(f"{odd.about}: {status or 'no answer'}")
    if not ready(address, client):
        wrong.append("afterwards: not ready")
    return wrong


def odd_requests(schema: Schema, example: Row) -> Iterator[Odd]:
    """Yield requests that keep and that break the contract, endless and always the same."""
    random = Random(0)  # noqa: S311 (always the same)
    for name, column in cycle(schema.inputs.items()):
        edge = {key: random.choice(edges(each)) for key, each in schema.inputs.items()}
        yield Odd("a row at the contract's edges", edge, acceptable=True)
        wrong = random.choice(wrong_values(column))
        yield Odd(f"{name} = {wrong}", {**example, name: wrong})
        if not column.nullable:
            yield Odd(f"{name} = None", {**example, name: None})
            others = {key: value for key, value in example.items() if key != name}
            yield Odd(f"a row without {name}", others)
        yield Odd("an unknown column", {**example, "no such column": 1})


def edges(column: Column) -> list[Value]:
    """Return values at the edges of what the contract allows."""
    low, high = column.limits
    kinds: dict[str, list[Value]] = {
        "number": [low, high],
        "integer": [math.ceil(max(low, -(2**53))), math.floor(min(high, 2**53))],
        "boolean": [True, False],
        "category": [*(column.categories or ()), *["é\u2028\U0001f600"] * column.allow_unknown],
        "timestamp": ["1970-01-01T00:00:00", "2024-02-29T23:59:59.5", "2024-12-31T23:30:00-05:00"],
    }
    return [*kinds[column.type], *[None] * column.nullable]


def wrong_values(column: Column) -> list[object]:
    """Return values of the wrong type, out of range, or unknown."""
    low, high = column.limits
    far = [low - abs(low) - 1, high + abs(high) + 1] if column.type in ("number", "integer") else []
    unknown = ["no such category"] * (column.type == "category" and not column.allow_unknown)
    return [*WRONG[column.type], *far, *unknown, []]
