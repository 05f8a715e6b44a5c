"""Odd requests, made from the contract: rows at its edges, and rows that break it in one place."""

import math
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

import requests

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row, Value
from mlops_loop.release.smoke_test.server import predict, ready

WRONG: dict[str, list[object]] = {  # values of another type, or that no contract allows
    "number": ["far", True],
    "integer": [0.5, "far"],
    "boolean": ["maybe", 7],
    "category": [7.5, True],
    "timestamp": ["yesterday", "2024-02-30T00:00:00"],
}


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
