"""Odd requests: at the contract's edges, beyond them, and some that are no requests at all."""

import json
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import requests

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import MAX_ROWS, Row, Value
from mlops_loop.release.smoke_test.server import ready, send


class Request(NamedTuple):
    """A request, and whether the contract allows it."""

    about: str
    body: bytes
    method: str = "POST"
    path: str = "predict"
    with_key: bool = True
    acceptable: bool = False


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
    random = np.random.default_rng(0)
    inputs = list(schema.inputs)
    broken = [*malformed(example), *misshapen(schema, example)]
    for number in count():
        name = inputs[number % len(inputs)]
        row = {key: valid_value(column, random) for key, column in schema.inputs.items()}
        less = {key: value for key, value in row.items() if value is not None}
        yield rows("a row at the contract's edges", [row, less])._replace(acceptable=True)
        wrong = invalid_value(schema.inputs[name], random)
        yield rows(f"{name} = {str(wrong)[:20]}", [{**example, name: wrong}])
        yield broken[number % len(broken)]


def rows(about: str, content: object) -> Request:
    return Request(about, json.dumps({"rows": content}).encode())


def malformed(example: Row) -> list[Request]:
    """Return requests that are no JSON, no rows, or not allowed."""
    good = json.dumps({"rows": [example]}).encode()
    return [
        Request("no key", good, with_key=False),
        Request("an empty body", b""),
        Request("no JSON", b'{"rows": ['),
        Request("no text", b"\xff\xfe\x00"),
        Request("a number of 5,000 digits", b'{"rows": [' + b"9" * 5000 + b"]}"),
        Request("deeply nested lists", b"[" * 100_000),
        Request("no object", b"[1, 2, 3]"),
        Request("GET", good, method="GET"),
        Request("DELETE", b"", method="DELETE"),
        Request("an unknown path", good, path="train"),
    ]


def misshapen(schema: Schema, example: Row) -> list[Request]:
    """Return requests whose rows have the wrong shape."""
    needed = [name for name, column in schema.inputs.items() if not column.nullable]
    return [
        rows("no rows", []),
        rows("rows that are none", "all of them"),
        rows("a row that is null", [None]),
        rows("too many rows", [example] * (MAX_ROWS + 1)),
        rows("an unknown column", [{**example, "no such column": 1}]),
        Request(
            "another key beside rows",
            json.dumps({"rows": [example], "model": "other"}).encode(),
        ),
        *(
            rows(f"a row without {name}", [{key: example[key] for key in example if key != name}])
            for name in needed[:3]
        ),
    ]


def valid_value(column: Column, random: np.random.Generator) -> Value:
    """Return a value at the edge of what the contract allows."""
    low, high = column.limits
    kinds: dict[str, list[Value]] = {
        "number": [low, high, float(random.uniform(low, high))],
        "integer": [int(np.ceil(max(low, -(2**53)))), int(np.floor(min(high, 2**53)))],
        "boolean": [True, False],
        "category": [
            *(column.categories or ()),
            *["no such category", "é\u2028\U0001f600"] * column.allow_unknown,
        ],
        "timestamp": ["1970-01-01T00:00:00", "2024-02-29T23:59:59.5", "2024-12-31T23:30:00-05:00"],
    }
    values = [*kinds[column.type], *[None] * column.nullable]
    return values[random.integers(len(values))]


def invalid_value(column: Column, random: np.random.Generator) -> object:
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
    kinds: dict[str, list[object]] = {
        "number": [*beyond, "far", True],
        "integer": [*beyond, 0.5, "far", True],
        "boolean": ["maybe", 7, float("nan")],
        "category": [7.5, float("nan"), True, *["no such category"] * (not column.allow_unknown)],
        "timestamp": ["yesterday", "2024-02-30T00:00:00", "2024-02-03T24:00:00", 0, True],
    }
    shapes: list[object] = [[], {}, [[1]], {"$ne": None}]
    values = [*kinds[column.type], *shapes, *[None] * (not column.nullable)]
    return values[random.integers(len(values))]
