"""Unit costs of the champion's bundle, measured on this machine with its real server."""

import os
import platform
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.values import Row
from mlops_loop.onboarding.capacity.plan import UnitCosts
from mlops_loop.release.smoke_test.server import server
from mlops_loop.scoring.bundle import Bundle, open_bundle

FIRST = 20  # requests that are not timed
ALONE = 300  # requests that are timed, one after the other
CONNECTIONS = 4  # over which those are sent whose CPU is counted: they share transactions
SINGLE = 2000  # of one row
MANY, MANY_ROWS = 200, 100
SCORED = 200_000  # rows
RETRY = Retry(3, allowed_methods=None)  # the server closes a connection that a busy machine left
START_SECONDS = 300  # that a busy machine may take to start the server


class Run(NamedTuple):
    cpu_ms: float  # of a request
    latencies_ms: list[float]  # of requests with one row, alone
    mib: float
    log_bytes: float


def measure(single: int = SINGLE, many: int = MANY, scored: int = SCORED) -> UnitCosts:
    """Send so many requests of one row and of MANY_ROWS, and score so many rows of a file."""
    bundle = open_bundle(Path(load_settings().bundle))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ones, hundreds = serve(bundle, folder, single, 1), serve(bundle, folder, many, MANY_ROWS)
        seconds, mib = score(bundle.manifest.example, folder, scored)
    row = max(0.0, hundreds.cpu_ms - ones.cpu_ms) / (MANY_ROWS - 1)
    times = ones.latencies_ms
    return UnitCosts(
        about=f"{bundle.schema.name}, {len(bundle.schema.inputs)} inputs; {machine()}",
        request_ms=max(0.0, ones.cpu_ms - row),
        row_ms=row,
        latency_ms=statistics.mean(times),
        latency_p95_ms=float(np.percentile(times, 95)),
        variation=statistics.variance(times) / statistics.mean(times) ** 2,
        serving_mib=hundreds.mib,
        score_seconds=seconds / scored * 1e6,
        score_mib=mib,
        log_bytes=hundreds.log_bytes / (many * MANY_ROWS + FIRST + ALONE),
    )


def machine() -> str:
    cores = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{cores}, Python {platform.python_version()}, {date.today()}"


def usage(children: bool) -> tuple[float, float]:
    """Return CPU milliseconds and peak MiB: of all ended child processes, or of this one."""
    try:
        import resource
    except ImportError:
        raise Failure("--measure reads the CPU time of processes as POSIX gives it") from None
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return (used.ru_utime + used.ru_stime) * 1000, used.ru_maxrss / unit


def serve(bundle: Bundle, folder: Path, count: int, rows: int) -> Run:
    """Send requests to the real server, with a log of its own, after those of one row."""
    log = folder / f"{count}-{rows}.db"
    row = bundle.manifest.example
    url = f"sqlite:///{log.as_posix()}"
    output = log.with_suffix(".log")
    with server(bundle.folder, url, output, START_SECONDS) as (address, client):
        client.mount(address, HTTPAdapter(max_retries=RETRY))

        def send(rows: int) -> float:
            began = time.perf_counter()
            body = {"rows": [row] * rows}
            try:
                client.post(f"{address}/v1/predict", json=body).raise_for_status()
            except requests.RequestException as error:
                raise Failure(f"the server that is measured fails: {error}") from None
            return (time.perf_counter() - began) * 1000

        times = [send(1) for _ in range(FIRST + ALONE)][FIRST:]
        before = running_cpu_ms()  # less what the start took, which compiles after an update
        with ThreadPoolExecutor(CONNECTIONS) as clients:
            list(clients.map(send, [rows] * count))
        used, mib = running_cpu_ms() - before, peak_mib()
    size = sum(path.stat().st_size for path in folder.glob(f"{log.name}*"))
    return Run(used / count, times, mib, size)


def of_children(name: str) -> list[str]:
    """Return what /proc tells of the processes that this thread started and that still run."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not children.is_file():
        raise Failure("--measure needs Linux: the server's CPU and memory are read from /proc")
    return [Path(f"/proc/{pid}/{name}").read_text("utf-8") for pid in children.read_text().split()]


def running_cpu_ms() -> float:
    """Return the CPU milliseconds that they have used until now."""
    fields = [text.rpartition(")")[2].split() for text in of_children("stat")]
    ticks = sum(int(user_or_system) for one in fields for user_or_system in one[11:13])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def peak_mib() -> float:
    """Return the peak MiB of the largest of them.

    What `getrusage` tells of a child may be the peak of the process that started it.
    """
    lines = [line.split() for text in of_children("status") for line in text.splitlines()]
    return max(int(line[1]) for line in lines if line[:1] == ["VmHWM:"]) / 2**10


def score(row: Row, folder: Path, rows: int) -> tuple[float, float]:
    """Return the CPU seconds of scoring so many rows of a file, and the peak MiB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlops_loop.batch.score import score

    table = pa.Table.from_pylist([row] * rows)
    before = 0.0
    for count in (1, rows):  # the first only warms up
        pq.write_table(table.slice(0, count), folder / "rows.parquet")
        before, _ = usage(children=False)
        score(str(folder / "rows.parquet"), folder / "scored.parquet")
    after, mib = usage(children=False)
    return (after - before) / 1000, mib
