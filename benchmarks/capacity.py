"""Capacity: the wait that `capacity` predicts against the real server's, at a few loads.

Run in a rendered project, in its environment, when its pipeline has run (unit_costs.py does the
same):

    BUNDLE=build/bundle python capacity.py PACKAGE [--seconds 20] [--loads .3,.6,.8]

Requests of one row arrive at random times (Poisson), whether or not those before are answered, over
as many connections as they need; an answer's time counts from its arrival. The CPU of a request is
what the load itself used.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvloop
from growth import Found, queue
from measured import use
from mlops_loop.base.settings import load_settings
from mlops_loop.onboarding.capacity.measure import usage
from mlops_loop.onboarding.capacity.queueing import wait
from mlops_loop.release.smoke_test.server import server
from mlops_loop.scoring.bundle import open_bundle

WARM_UP = 200  # requests that are not counted
ALONE = 0.05  # load at which next to none waits


class Run(NamedTuple):
    mean: float  # milliseconds
    p95: float
    variation: float
    late: float  # 95th percentile of the client's own delay


class Client:
    """Sends a request over a free connection, or a new one."""

    def __init__(self, address: str, key: str, body: bytes) -> None:
        self.host, port = address.removeprefix("http://").split(":")
        self.port = int(port)
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {self.host}:{port}\r\nX-API-Key: {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.request = head.encode() + body
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self) -> None:
        while self.free:
            pair = self.free.pop()
            try:
                return await self.answer(*pair)
            except (asyncio.IncompleteReadError, ConnectionError):
                continue  # the server has closed what nobody used for seconds
        return await self.answer(*await asyncio.open_connection(self.host, self.port))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head[:20]:
            raise SystemExit(head.decode())
        length = head.partition(b"content-length:")[2].partition(b"\r")[0]
        await reader.readexactly(int(length))
        self.free.append((reader, writer))


async def arrivals(client: Client, rate: float, seconds: float) -> Run:
    """Send requests at random times; return what their answers took."""
    for _ in range(WARM_UP):
        await client.send()
    times, late = list[float](), list[float]()
    loop = asyncio.get_running_loop()
    begun = loop.time() + 0.1
    due = begun + np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))

    async def one(at: float) -> None:
        await asyncio.sleep(at - loop.time())
        late.append((loop.time() - at) * 1000)
        await client.send()
        times.append((loop.time() - at) * 1000)

    await asyncio.gather(*map(one, due.tolist()))
    mean = statistics.mean(times)
    slow, own = (float(np.percentile(some, 95)) for some in (times, late))
    return Run(mean, slow, statistics.variance(times) / mean**2, own)


def load(rate: float, seconds: float) -> tuple[Run, float]:
    """Start the server and load it; return what answers took, and CPU milliseconds in all."""
    bundle = open_bundle(Path(load_settings().bundle))
    body = json.dumps({"rows": [bundle.manifest.example]}).encode()
    before, _ = usage(children=True)
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log.db"
        with server(bundle.folder, f"sqlite:///{log}", log.with_suffix(".txt"), 300) as running:
            address, session = running
            client = Client(address, str(session.headers["X-API-Key"]), body)
            run = uvloop.run(arrivals(client, rate, seconds))
    return run, usage(children=True)[0] - before


def compare(seconds: float, loads: list[float]) -> Found:
    """Return what is predicted and measured at loads of one worker, as shares of its core."""
    busy = os.getloadavg()[0]
    _, start = load(20, 0.1)  # two requests
    _, used = load(400, 5)
    cpu = (used - start) / 1998  # milliseconds of a request
    alone, _ = load(ALONE * 1000 / cpu, seconds)
    runs = list[dict[str, float]]()
    for share in loads:
        rate = share * 1000 / cpu
        run, used = load(rate, seconds)
        own = (used - start) / (rate * seconds)  # the CPU of a request at this load
        found = wait(1, rate * own / 1000, own, alone.variation)
        predicted = {
            "mean_predicted": alone.mean + found.mean,
            "p95_predicted": alone.p95 + found.p95,
        }
        facts = {"rate": rate, "cpu": own, "busy": rate * own / 1000}
        measured = {"mean": run.mean, "p95": run.p95, "late": run.late}
        runs.append(
            {name: round(value, 3) for name, value in (facts | predicted | measured).items()}
        )
    return {"load": f"{busy:.1f} before, {os.getloadavg()[0]:.1f} after", "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--loads", default=".3,.6,.8")
    given = parser.parse_args()
    use(given.package)
    print(queue(compare(given.seconds, [float(share) for share in given.loads.split(",")])))


if __name__ == "__main__":
    main()
