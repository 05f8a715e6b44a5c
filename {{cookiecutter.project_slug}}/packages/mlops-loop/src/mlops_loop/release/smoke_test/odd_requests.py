"""Odd requests: at the contract's edges, beyond them, and some that are no requests at all."""

import json
import math
from collections.abc import Iterator
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

import requests

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import MAX_ROWS, Row, Value
from mlops_loop.release.smoke_test.server import ready, send


class Request(NamedTuple):
    """A request, and whether the contract allows it."""

    about: str
    body: bytes
    acceptable: bool = False
    method: str = "POST"
    path: str = "predict"
    with_key: bool = True


def fuzz(
    address: str, client: requests.Session, schema: Schema, example: Row, number: int
) -> list[str]:
    """Send `number` odd requests; return which ones the server answers wrongly.

    It must answer what the contract allows (200), but for rows from which a value is derived that
    the contract forbids, and refuse all else as the client's mistake (4xx).
    """
    wrong = []
    for request in islice(odd_requests(schema, example), number):
        key = client.headers["X-API-Key"] if request.with_key else None
        headers = {"Content-Type": "application/json", "X-API-Key": key}
        url = f"{address}/v1/{request.path}"
        status, body = send(client, request.method, url, data=request.body, headers=headers)
        answered = status == 200 or (status == 422 and b"is derived from this row" in body)
        if not answered if request.acceptable else not 400 <= status < 500:
            wrong.append(f"{request.about}: {status or 'no answer'}")
    if not ready(address, client):
        wrong.append("afterwards: not ready")
    return wrong


def odd_requests(schema: Schema, example: Row) -> Iterator[Request]:
    """Yield requests that keep and that break the contract, endless and always the same."""
    random = Random(0)  # noqa: S311 (always the same)
    columns = schema.inputs.items()
    for name, broken in zip(cycle(schema.inputs), cycle(broken_requests(schema, example))):
        row = {key: random.choice(edges(column, random)) for key, column in columns}
        known = {key: value for key, value in row.items() if value is not None}
        yield rows("a row at the contract's edges", [row, known])._replace(acceptable=True)
        wrong = random.choice(wrong_values(schema.inputs[name]))
        yield rows(f"{name} = {str(wrong)[:20]}", [{**example, name: wrong}])
        yield broken


def rows(about: str, content: object) -> Request:
    return Request(about, json.dumps({"rows": content}).encode())


def broken_requests(schema: Schema, example: Row) -> list[Request]:
    """Return requests that are no JSON, no rows, rows of the wrong shape, or not allowed."""
    good = json.dumps({"rows": [example]}).encode()
    needed = [name for name, column in schema.inputs.items() if not column.nullable]
    return [
        Request("no key", good, with_key=False),
        Request("an empty body", b""),
        Request("no JSON", b'{"rows": ['),
        Request("no text", b"\xff\xfe\x00"),
        Request("a number of 5,000 digits", b'{"rows": [' + b"9" * 5000 + b"]}"),
        Request("deeply nested lists", b"[" * 100_000),
        Request("no object", b"[1, 2, 3]"),
        Request("another key beside rows", good[:-1] + b', "model": "other"}'),
        Request("GET", good, method="GET"),
        Request("DELETE", b"", method="DELETE"),
        Request("an unknown path", good, path="train"),
        rows("no rows", []),
        rows("rows that are none", "all of them"),
        rows("a row that is null", [None]),
        rows("too many rows", [example] * (MAX_ROWS + 1)),
        rows("an unknown column", [{**example, "no such column": 1}]),
        *(
            rows(f"a row without {name}", [{key: example[key] for key in example if key != name}])
            for name in needed[:3]
        ),
    ]


def edges(column: Column, random: Random) -> list[Value]:
    """Return values at the edges of what the contract allows."""
    low, high = column.limits
    unknown = ["no such category", "é\u2028\U0001f600"] * column.allow_unknown
    kinds: dict[str, list[Value]] = {
        "number": [low, high, random.uniform(low, high)],
        "integer": [math.ceil(max(low, -(2**53))), math.floor(min(high, 2**53))],
        "boolean": [True, False],
        "category": [*(column.categories or ()), *unknown],
        "timestamp": ["1970-01-01T00:00:00", "2024-02-29T23:59:59.5", "2024-12-31T23:30:00-05:00"],
    }
    return [*kinds[column.type], *[None] * column.nullable]


def wrong_values(column: Column) -> list[object]:
    """Return values of the wrong type, out of range, unknown, or missing where they must not be."""
    low, high = column.limits
    far = [low - abs(low) * 0.01 - 1, high + abs(high) * 0.01 + 1, 1e300, -(10**400), math.inf]
    unknown = ["no such category"] * (not column.allow_unknown)
    kinds: dict[str, list[object]] = {
        "number": [*far, math.nan, "far", True],
        "integer": [*far, math.nan, 0.5, "far", True],
        "boolean": ["maybe", 7, math.nan],
        "category": [7.5, math.nan, True, *unknown],
        "timestamp": ["yesterday", "2024-02-30T00:00:00", "2024-02-03T24:00:00", 0, True],
    }
    return [*kinds[column.type], [], {}, [[1]], {"$ne": None}, *[None] * (not column.nullable)]
