"""Smoke test: send a running API one real request, the example of its own documentation.

It runs inside the API's container after each release, on what production has.
"""

import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import Settings, parse_keys

SECONDS = 30  # that an answer may take


def smoke(url: str, settings: Settings) -> str:
    """Return the API's answer in one line; raise a Refusal if it is not ready or answers wrong."""
    url = url.rstrip("/")
    send(f"{url}/health/ready")
    try:
        openapi = json.loads(send(f"{url}/openapi.json"))
        example = openapi["components"]["schemas"]["Rows"]["example"]
        body = json.dumps(example).encode()
        answer = json.loads(send(f"{url}/v1/predict", body, first_key(settings)))
        version, predictions = answer["model_version"], answer["predictions"]
        complete = len(predictions) == len(example["rows"]) and all(p["id"] for p in predictions)
    except (ValueError, LookupError, TypeError):
        raise Refusal(f"{url} is ready, but is no API of this project: name its URL") from None
    if not complete:
        raise Refusal(f"{url} left rows out of its answer: see the API's log")
    return f"version {version} answered: {json.dumps(predictions[0])}"


def first_key(settings: Settings) -> str:
    """Return a key that the API takes: of the same environment as the API's own."""
    keys = settings.keys()
    if settings.api_keys_file:
        keys |= parse_keys(Path(settings.api_keys_file).read_text("utf-8"), settings.api_keys_file)
    return next(iter(keys.values()), "")


def send(url: str, body: bytes | None = None, key: str = "") -> bytes:
    """Send a request, through no proxy; return the answer's body."""
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    try:
        request = Request(url, body, headers)  # noqa: S310 - http and https only, see the verb
        with build_opener(ProxyHandler({})).open(request, timeout=SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        reason = " ".join(error.read().decode("utf-8", "replace").split())[:300]
        raise Refusal(f"{url} answered {error.code}: {reason}") from None
    except OSError as error:
        why = getattr(error, "reason", None) or error
        raise Failure(f"{url} does not answer ({why}): is the API running there?") from None
