"""One request and its answer: id, status and time, and the headers that every answer gets."""

import json
import re
import time
from random import Random

from starlette.types import Message, Scope, Send

REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
# Clients may choose their own, so these are no secrets, unlike the ids of predictions: whoever
# could foresee one could record an outcome for it. To ask the system costs a change of threads.
REQUEST_IDS = Random()  # noqa: S311
SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class Exchange:
    def __init__(self, scope: Scope, headers: dict[bytes, bytes], send: Send) -> None:
        given = headers.get(b"x-request-id", b"")
        self.id = given if REQUEST_ID.fullmatch(given) else b"%032x" % REQUEST_IDS.getrandbits(128)
        self.path: str = scope["path"]
        self.send_message = send
        self.started = time.perf_counter()
        self.status = 500
        self.answering = False
        state = scope.setdefault("state", {})
        state["request_id"] = self.id.decode()
        state["key"] = None  # name of the API key
        state["column"] = ""  # that broke the contract, if one did

    async def send(self, message: Message) -> None:
        """Send an ASGI message; an answer's first one gets the headers."""
        if message["type"] == "http.response.start":
            self.answering = True
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            missing = [header for header in SECURITY_HEADERS if header[0] not in present]
            message["headers"] = [*message["headers"], *missing, (b"x-request-id", self.id)]
        await self.send_message(message)

    async def send_error(self, status: int, text: str, retry_after: int = 0) -> None:
        """Send an error as the protocol of the path has it."""
        key = "error" if self.path.startswith("/v2") else "detail"
        body = json.dumps({key: text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if retry_after:
            headers.append((b"retry-after", str(retry_after).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
