"""Ids of requests and predictions: unique, but no secrets.

A generator that the system seeds once will do: to ask the system each time gives up the
interpreter's lock, twice in a request.
"""

import re
import time
from hashlib import sha256
from random import Random

from mlops_loop.contract.limits import MAX_ROWS
from mlops_loop.serving.request_schema import Invalid

ROWS = [f"{place:04x}" for place in range(MAX_ROWS)]
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
RANDOM = Random()  # its own, as the project's code may seed the common one  # noqa: S311


def new_request_id() -> str:
    """Return 32 hex digits."""
    return f"{RANDOM.getrandbits(128):032x}"


def new_prefix() -> str:
    """Return 28 hex digits that grow with time."""
    return f"{time.time_ns() // 1_000_000:012x}{RANDOM.getrandbits(64):016x}"


def request_prefix(idempotency_key: str | None, key: str | None, body: bytes) -> str:
    """Return the first 28 hex digits of a request's ids: the same for a repeated request."""
    if idempotency_key is None:
        return new_prefix()
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    return sha256(f"{key or ''}\n{idempotency_key}\n".encode() + body).hexdigest()[:28]


def row_ids(prefix: str, rows: int) -> list[str]:
    return [prefix + row for row in ROWS[:rows]]
