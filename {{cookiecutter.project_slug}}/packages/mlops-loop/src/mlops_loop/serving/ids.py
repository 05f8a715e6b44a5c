"""Ids of requests and predictions."""

import re
import secrets
import time
from hashlib import sha256
from random import Random

from mlops_loop.contract.values import MAX_ROWS
from mlops_loop.serving.request_schema import Invalid

ROWS = [f"{place:04x}" for place in range(MAX_ROWS)]
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
# Clients may choose a request's id, so it is no secret, unlike a prediction's: whoever could
# foresee one could record an outcome for it. To ask the system costs a change of threads.
REQUEST_IDS = Random()  # its own, as the project's code may seed the common one  # noqa: S311


def new_request_id() -> str:
    """Return 32 hex digits."""
    return f"{REQUEST_IDS.getrandbits(128):032x}"


def new_prefix() -> str:
    """Return 28 hex digits that grow with time and that nobody can foresee."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def request_prefix(idempotency_key: str | None, key: str | None, body: bytes) -> str:
    """Return the first 28 hex digits of a request's ids: the same for a repeated request."""
    if idempotency_key is None:
        return new_prefix()
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    return sha256(f"{key or ''}\n{idempotency_key}\n".encode() + body).hexdigest()[:28]


def row_ids(prefix: str, rows: int) -> list[str]:
    return [prefix + row for row in ROWS[:rows]]
