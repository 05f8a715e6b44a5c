"""Delivery: a message is posted to a webhook, or appended to a file."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pydantic import JsonValue
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from mlops_loop.monitoring.alerting.messages import Message

TIMEOUT = (5.0, 10.0)  # seconds to connect, and to wait for an answer
TRIES = 4
PAUSE = 0.5  # seconds between the first two tries
MAX_RETRY_AFTER = 20  # seconds
RETRIED_STATUS = (429, 500, 502, 503, 504)
URL_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry")  # they log the path of the URL


def append_to_file(path: Path, message: Message) -> str:
    """Append a line for each alert to a file; return why that failed, or nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = message.model_dump(mode="json")
    common = {key: document[key] for key in ("model", "model_version", "window")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            for alert in document["alerts"]:  # one write for each: others may append to it, too
                text = json.dumps({"time": now, **common, **alert}, ensure_ascii=False)
                os.write(file, f"{text}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""


def post(url: str, body: Mapping[str, JsonValue]) -> str:
    """Post a message; return why that failed, or nothing.

    The URL is a secret: the reason names the host alone.
    """
    scheme, host = parse(url)
    if not host or scheme not in ("https", "http"):
        return "ALERT_WEBHOOK is not a URL that begins with https:// or http://"
    data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with silenced_loggers(), requests.Session() as session:
            session.mount(f"{scheme}://", HTTPAdapter(max_retries=retries()))
            # Streamed, as the answer's body is not needed; a redirect would carry the message on.
            with session.post(
                url, data=data, headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
    except (requests.RequestException, HTTPError, ValueError) as error:
        cause = getattr(error.args[0] if error.args else None, "reason", None) or error
        return f"{host} cannot be reached ({type(cause).__name__})"  # its text has the URL in it
    return "" if 200 <= status < 300 else f"{host} answered {status}"


def parse(url: str) -> tuple[str, str | None]:
    """Return scheme and host of a URL; no host if it is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname
    except ValueError:
        return "", None


def retries() -> Retry:
    return Retry(
        total=TRIES - 1,
        allowed_methods=None,  # POST, too: better twice than never
        status_forcelist=RETRIED_STATUS,
        backoff_factor=PAUSE,
        retry_after_max=MAX_RETRY_AFTER,
        raise_on_status=False,
    )


@contextmanager
def silenced_loggers() -> Iterator[None]:
    """Let urllib3 log nothing: it would say where it posts to."""
    loggers = [logging.getLogger(name) for name in URL_LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state
