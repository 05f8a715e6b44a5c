"""Load: POST one body to one address over some connections, by wrk or else autocannon."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("post.lua")
AUTOCANNON = "autocannon@9"  # from npm; its latencies are whole milliseconds


class Load(NamedTuple):
    requests: int  # that were answered
    failed: int  # of them, or without an answer
    seconds: float
    p50: float  # milliseconds
    p99: float


def tool() -> str:
    """Return the load tool that is there."""
    if shutil.which("wrk"):
        return "wrk"
    if shutil.which("npx"):
        return AUTOCANNON
    raise SystemExit("a load tool is missing: install wrk (apt, brew), or Node.js for autocannon")


def post(address: str, body: Path, connections: int, seconds: int) -> Load:
    """Load the address for some seconds; each connection sends its next request after an answer."""
    load = by_wrk if tool() == "wrk" else by_autocannon
    return load(address, body, connections, seconds)


def by_wrk(address: str, body: Path, connections: int, seconds: int) -> Load:
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s"]
    said = run([*command, "-s", str(SCRIPT), address, "--", str(body)])
    return Load(**json.loads(said.splitlines()[-1]))


def by_autocannon(address: str, body: Path, connections: int, seconds: int) -> Load:
    npx = shutil.which("npx") or "npx"  # npx.cmd on Windows
    command = [npx, "--yes", AUTOCANNON, "--json", "-c", str(connections), "-d", str(seconds)]
    command += ["-t", "30", "-m", "POST", "-H", "Content-Type=application/json", "-i", str(body)]
    found = json.loads(run([*command, address]))
    failed = found["non2xx"] + found["errors"] + found["timeouts"]
    latency, requests = found["latency"], found["2xx"] + found["non2xx"]
    return Load(requests, failed, found["duration"], latency["p50"], latency["p99"])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
