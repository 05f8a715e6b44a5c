"""Load: many requests at once over HTTP, by a client that is fast enough to test a server."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """What came back: how often each status (0: no answer), and what was answered."""

    codes: Counter[int] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by version, without ids
    stop: bool = False


async def ask(load: Load, address: str, body: bytes, count: int, keep: bool) -> None:
    """Send requests one after the other on a connection; open a new one when it is closed."""
    where, stream = urlsplit(address), None
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    )
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    while count and not load.stop:
        try:
            if stream is None:
                reader, stream = await asyncio.open_connection(where.hostname, where.port)
            stream.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
            text, status = await reader.readexactly(length), int(answer[9:12])
        except (OSError, asyncio.IncompleteReadError):
            load.codes[0] += 1
            stream = None
            await asyncio.sleep(0.05)
            continue
        count -= 1
        load.codes[status] += 1
        if status == 200 and keep:
            found = json.loads(text)
            for line in found["predictions"]:
                load.ids.append(line.pop("id"))
                load.answers[found["model_version"], json.dumps(line)] += 1
    if stream:
        stream.close()


def blast(
    load: Load, address: str, body: bytes, count: int, connections: int = 8, keep: bool = True
) -> Load:
    """Send `count` requests over some connections; return the load, which was filled meanwhile."""

    async def every() -> None:
        each = count // connections
        await asyncio.gather(*(ask(load, address, body, each, keep) for _ in range(connections)))

    asyncio.run(every())
    return load
