"""Serving: this project's server against what one would pick instead, with the same pipeline.

Run in a rendered project, in its environment, when its pipeline has run and its bundle is promoted
(`make bench` does all that first):

    python serving.py PACKAGE [--output ..] [--rounds 5] [--seconds 3] [--quick] [--alone]

In each round each server in turn is started alone, loaded with 1, 100 and 1000 rows in a request
over 1, 8 and 32 connections, and stopped. Before that, its answers must agree with the pipeline's;
after it, what this project's server acknowledged must be in its log. Written are serving.md
(medians of the rounds) and serving.json (every round). Clients send our server what the contract
calls inputs, and it derives the rest; the others, and the variant `values sent` of our server, are
sent every feature: what deriving costs is the difference of the two.
"""

import argparse
import json
import math
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from load import Load, post, tool
from measured import use
from servers import OURS, PORT, SENT, TWO, UNLOGGED, Rows, Server, fitted, install, ours, rows, size
from table import SUMMARY, report
from tree import cpu, end, memory, settle

Process = subprocess.Popen[bytes]
ROWS, CONNECTIONS = (1, 100, 1000), (1, 8, 32)
TOLERANCE = 1e-6  # between a server's scores and the pipeline's
TIMEOUT = 120  # seconds that a server may take to start
TURNS = 5  # that each connection gets at least: what a load's end cuts off is not counted
LONGEST = 20  # seconds of one load, whatever the turns


@contextmanager
def started(server: Server, work: Path) -> Iterator[tuple[str, Process]]:
    """Run a server on a free port of loopback; give its address and process; end it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    log = f"sqlite:///{(work / 'predictions.db').as_posix()}"
    settings = {"FITTED": str(work), "OMP_NUM_THREADS": "1", "PREDICTION_LOG_URL": log}
    settings |= {"PATH": os.pathsep.join([str(Path(server.command[0]).parent), os.environ["PATH"]])}
    settings |= {name: value.replace(PORT, port) for name, value in server.environment.items()}
    command = [port if word == PORT else word for word in server.command]
    inner = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}  # lead into this process's environment
    outside = {name: value for name, value in os.environ.items() if name not in inner}
    with (work / "server.log").open("wb") as output:
        process = subprocess.Popen(command, env=outside | settings, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}{server.path}", process
    finally:
        end(process)


def cold_start(address: str, body: bytes, process: Process, since: float) -> float:
    """Return the seconds until the first prediction; raise RuntimeError if there is none."""
    problem = "no answer"
    while (taken := time.perf_counter() - since) < TIMEOUT:
        if process.poll() is not None:
            raise RuntimeError(f"it ends with {process.returncode} when it is started")
        try:
            answer = ask(address, body)
        except requests.RequestException:
            pass
        else:
            if answer.ok:
                return time.perf_counter() - since
            problem = f"{answer.status_code}: {answer.text[:300]}"
        time.sleep(0.02)
    raise RuntimeError(f"no prediction within {taken:.0f} seconds: {problem}")


def ask(address: str, body: bytes) -> requests.Response:
    with requests.Session() as client:
        client.trust_env = False  # no proxy
        return client.post(address, body, headers={"Content-Type": "application/json"}, timeout=60)


def write_bodies(server: Server, sample: Rows, work: Path) -> dict[int, Path]:
    """Write a request of each size in the server's format; return the files."""
    files = {count: work / f"{count}.json" for count in ROWS}
    for count, path in files.items():
        path.write_text(json.dumps(server.body(sample[:count])), encoding="utf-8")
    return files


def check(
    server: Server, address: str, bodies: dict[int, Path], expected: np.ndarray
) -> dict[int, float]:
    """Return the seconds that an answer takes, by its rows.

    Raises RuntimeError if the server answers other than the pipeline.
    """
    taken = {}
    for count, path in bodies.items():
        body = path.read_bytes()
        answer = ask(address, body)
        if not answer.ok:
            raise RuntimeError(f"{count} rows: {answer.status_code}: {answer.text[:300]}")
        found = np.asarray(server.scores(answer.json()), dtype=float).reshape(count, -1)
        if not np.allclose(found, expected[:count], rtol=TOLERANCE, atol=TOLERANCE):
            most = np.abs(found - expected[:count]).max()
            raise RuntimeError(f"{count} rows: answers differ from the pipeline's by {most:.1e}")
        taken[count] = ask(address, body).elapsed.total_seconds()
    return taken


def measure(
    server: Server, work: Path, sample: Rows, expected: np.ndarray, seconds: int
) -> dict[str, Any]:
    """Return what one run of a server shows; with 0 seconds it is asked, but not loaded."""
    bodies, database = write_bodies(server, sample, work), work / "predictions.db"
    began, loads = time.perf_counter(), list[dict[str, Any]]()
    try:
        with started(server, work) as (address, process):
            cold = cold_start(address, bodies[1].read_bytes(), process, began)
            taken = check(server, address, bodies, expected)
            answered = 1 + 2 * sum(bodies)  # predictions, so far
            for connections in (server.connections or CONNECTIONS) if seconds else ():
                warm = post(address, bodies[100], connections, 1)  # not measured
                answered += (warm.requests - warm.failed) * 100
                for count in ROWS:
                    settle(process.pid)
                    before = cpu(process.pid)
                    enough = min(math.ceil(TURNS * connections * taken[count]), LONGEST)
                    load = post(address, bodies[count], connections, max(seconds, enough))
                    used = cpu(process.pid) - before
                    answered += (load.requests - load.failed) * count
                    loads.append(cell(load, used) | {"rows": count, "connections": connections})
            run = {"server": server.name, "cold_start": cold, "memory": memory(process.pid)}
        if server.log or database.is_file():
            run["logged"] = logged(database, answered, server.log)
        return run | {"loads": loads}
    except (psutil.NoSuchProcess, requests.RequestException) as error:
        said = (work / "server.log").read_text(encoding="utf-8", errors="replace").split()
        raise RuntimeError(f"{error}; it said: {' '.join(said[-60:])}") from None
    finally:
        for path in work.glob("predictions.db*"):
            path.unlink()


def cell(load: Load, used: float) -> dict[str, float]:
    """Return what a load shows; CPU seconds are per 1000 requests."""
    good = load.requests - load.failed
    if good < 1:
        raise RuntimeError("no request is answered well under load")
    return {
        "requests_per_second": good / load.seconds,
        "cpu": used / load.requests * 1000,
        "p50": load.p50,
        "p99": load.p99,
        "requests": load.requests,
        "failed": load.failed,
    }


def logged(database: Path, answered: int, wanted: bool) -> int:
    """Return the number of predictions in the log; stop if there are fewer than were answered.

    There may be more: the end of a load cuts answers off. If none is wanted, stop if there is any.
    """
    with closing(sqlite3.connect(database)) as connection:
        count = int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
    if count and not wanted:
        raise SystemExit("the server without a log has one: change benchmarks/apps/unlogged.py")
    if count < answered and wanted:
        raise SystemExit(f"{answered:,} predictions were answered, {count:,} are in the log")
    return count


def facts(rounds: int, seconds: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    machine = f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores"
    busy = round(psutil.getloadavg()[1], 1)  # of five minutes: other work distorts the figures
    about = {"machine": machine, "load_before": busy, "python": platform.python_version()}
    return about | {"load_tool": tool(), "rounds": rounds, "seconds": seconds}


def compare(
    package: str,
    folder: Path,
    rounds: int,
    seconds: int,
    connections: tuple[int, ...],
    alone: bool,
) -> dict[str, Any]:
    """Return every round of every server, and why one is not measured.

    The others are loaded over `connections`, this project's server over all. A round before the
    first only sees that each works, and agrees with the pipeline.
    """
    about, work = facts(rounds, seconds), folder / "serving"
    fitted(work)
    sample, expected = rows(max(ROWS))
    peers, absent = ([], {}) if alone else install(folder, work)
    peers = [replace(peer, connections=connections) for peer in peers]
    servers, runs = [*ours(package, work), *peers], list[dict[str, Any]]()
    for number in range(rounds + 1):
        servers.reverse()  # so that none always follows the same one
        for server in [server for server in servers if server.name not in absent]:
            print(f"round {number} of {rounds}: {server.name}", file=sys.stderr, flush=True)
            try:
                run = measure(server, work, sample, expected, seconds if number else 0)
            except RuntimeError as error:
                absent[server.name] = str(error)
                if server.name == OURS:
                    raise SystemExit(f"{OURS}: {error}; see {work / 'server.log'}") from None
                continue
            runs += [run] if number else []
    sizes = {server.name: size(server.home) for server in servers}
    return {"facts": about, "install": sizes, "absent": absent, "rounds": runs}


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--output", type=Path, default=Path(".."), help="also of environments")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=positive, default=3, help="of each load, at least")
    parser.add_argument("--quick", action="store_true", help="a trial: one short round")
    parser.add_argument("--alone", action="store_true", help="this project's server only")
    given = parser.parse_args()
    use(given.package)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server stays
    rounds, seconds = (1, 1) if given.quick else (given.rounds, given.seconds)
    connections = (SUMMARY,) if given.quick else CONNECTIONS
    output = given.output.resolve()
    found = compare(given.package, output, rounds, seconds, connections, given.alone)
    text = report(found, OURS, (SENT, TWO, UNLOGGED))
    (given.output / "serving.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    (given.output / "serving.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
