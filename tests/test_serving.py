"""Drills: what a server in production lives through, and must not lose a prediction over."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from conftest import LEAKS, Project, copy, execute
from load import Load, blast
from servers import free_port, restartable_postgres

pytestmark = pytest.mark.slow
EVERY_ID = """
import os, sqlalchemy as sa
with sa.create_engine(os.environ["PREDICTION_LOG_URL"]).connect() as connection:
    print(*connection.execute(sa.text("SELECT id FROM predictions")).scalars())
"""
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
TWO_MODELS = """
import shutil, sys
from importlib import import_module
from pathlib import Path
import onnx
bundle, check, files = (
    import_module(f"mlops_loop.{name}")
    for name in ("scoring.bundle", "scoring.self_check", "base.files")
)
for version, share in (("1001", 1), ("1002", 0.5)):
    folder = Path(shutil.copytree(files.BUNDLE, Path(sys.argv[1]) / version))
    model = onnx.load(folder / "model.onnx")
    parts = [part for node in model.graph.node for part in node.attribute]
    (weights,) = (part for part in parts if part.name == "class_weights")
    weights.floats[:] = [share * weight for weight in weights.floats]
    onnx.save(model, folder / "model.onnx")
    (folder / check.FILE).unlink()  # as of an older version: this model scores differently
    bundle.write_manifest(folder, bundle.read_document(folder / bundle.MANIFEST, bundle.Manifest))
    files.write_json(folder / bundle.PROMOTION, {"version": version})
"""
REQUESTS = 4_000  # in the middle of which something dies
MOST = 60  # seconds that anything may take to come


@contextmanager
def server(
    project: Project, port: int, *options: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the project's server; it is killed at the end if it still runs."""
    command = str(project.path / ".venv/bin" / project.slug), "serve", "--port", str(port), *options
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LEAKS)}
    with (project.path / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=project.path, stdout=log, stderr=log, env=clean | env
        )
    try:
        until(lambda: answers(port))
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=MOST).is_success
    except httpx.TransportError:
        return False


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + MOST
    while not found():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def served(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A promoted project with an environment of its own. Its prediction log grows."""
    return copy(pipeline, tmp_path_factory.mktemp("served"), promoted=True)


def body(project: Project, rows: int = 1) -> bytes:
    manifest = json.loads((project.path / "build/champion/bundle.json").read_text("utf-8"))
    return json.dumps({"rows": [manifest["example"]] * rows}).encode()


def logged(project: Project) -> list[str]:
    with sqlite3.connect(project.path / "predictions.db") as database:
        return [name for (name,) in database.execute("SELECT id FROM predictions")]


def test_a_killed_server_has_logged_all_that_it_answered(served: Project) -> None:
    (served.path / "predictions.db").unlink()
    load, port, request = Load(), free_port(), body(served)
    address = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor() as threads:
        with server(served, port) as process:
            work = threads.submit(blast, load, address, request, REQUESTS)
            until(lambda: len(load.ids) > REQUESTS // 3)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with server(served, port):
            work.result()
    assert load.codes[200] == REQUESTS
    assert load.codes.keys() == {0, 200}  # while nobody was there
    found = logged(served)
    assert len(set(load.ids)) == REQUESTS
    assert set(load.ids) <= set(found)
    # Up to eight more were logged, and not answered any more.
    assert len(found) == len(set(found)) <= REQUESTS + 8


def test_killed_processes_of_a_server_have_logged_all_that_they_answered(served: Project) -> None:
    load, port, request = Load(), free_port(), body(served)
    log = {"PREDICTION_LOG_URL": "sqlite:///killed.db", "PREDICTION_SPOOL": "spool-of-killed"}
    with server(served, port, "--workers", "2", **log) as process, ThreadPoolExecutor() as threads:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("processes are found in /proc")
        work = threads.submit(blast, load, f"http://127.0.0.1:{port}", request, REQUESTS)
        for answered in (REQUESTS // 5, REQUESTS // 2):
            until(partial(answered_more, load, answered))
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)
        work.result()
        process.send_signal(signal.SIGTERM)
        assert process.wait(MOST) == 0
    assert load.codes[200] == REQUESTS
    assert load.codes.keys() == {0, 200}
    found = served.uv("--no-sync", "python", "-c", EVERY_ID, env=log).stdout.split()
    assert set(load.ids) <= set(found)
    assert len(found) == len(set(found))


def answered_more(load: Load, count: int) -> bool:
    return len(load.ids) > count


def test_no_prediction_is_lost_while_postgresql_is_away(served: Project) -> None:
    load, port, request = Load(), free_port(), body(served)
    with restartable_postgres() as database:
        log = {"PREDICTION_LOG_URL": database.url, "PREDICTION_SPOOL": "spool-of-drill"}
        with server(served, port, **log) as process, ThreadPoolExecutor() as threads:
            work = threads.submit(blast, load, f"http://127.0.0.1:{port}", request, REQUESTS)
            until(lambda: len(load.ids) > REQUESTS // 5)
            database.stop()
            before = len(load.ids)
            # It goes on without.
            until(lambda: len(load.ids) > min(9 * REQUESTS // 10, before + REQUESTS // 5))
            health = f"http://127.0.0.1:{port}/health/ready"
            assert httpx.get(health).json()["log"]["spool_bytes"]
            database.start()
            work.result()
            until(lambda: not httpx.get(health).json()["log"]["spool_bytes"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(MOST) == 0
        found = served.uv("--no-sync", "python", "-c", EVERY_ID, env=log).stdout.split()
    assert dict(load.codes) == {200: REQUESTS}
    assert len(found) == len(set(found))
    assert set(load.ids) == set(found)


@pytest.mark.parametrize("swaps", [20, pytest.param(100, marks=pytest.mark.rare)])
def test_new_models_under_load(served: Project, tmp_path: Path, swaps: int) -> None:
    load, port, request = Load(), free_port(), body(served, 5)
    served.uv("--no-sync", "python", "-c", TWO_MODELS, str(tmp_path))
    champion, versions = tmp_path / "champion", ("1001", "1002")
    shutil.copytree(tmp_path / "1001", champion)
    address, env = f"http://127.0.0.1:{port}", {"PREDICTION_LOG_URL": "sqlite:///two-models.db"}
    env["BUNDLE"] = str(champion)
    with server(served, port, **env), ThreadPoolExecutor() as threads:
        work = threads.submit(blast, load, address, request, 10**9, 4)
        try:
            for number in range(swaps):
                version = versions[(number + 1) % 2]
                shutil.copytree(tmp_path / version, tmp_path / "next")
                champion.rename(tmp_path / "old")
                (tmp_path / "next").rename(champion)
                shutil.rmtree(tmp_path / "old")
                until(partial(serves, address, version))
        finally:
            load.stop = True
        work.result()
        until(lambda: f'model_swaps{{variant="champion"}} {swaps}.0' in metrics(address))
    assert load.codes.keys() == {200}
    # All rows are the same one: each version has one answer to it, and its own.
    assert {version for version, _ in load.answers} == set(versions)
    assert len(load.answers) == len({answer for _, answer in load.answers}) == 2
    with sqlite3.connect(served.path / "two-models.db") as database:
        found = database.execute(
            "SELECT DISTINCT model_version, output FROM predictions"
        ).fetchall()
    assert {(version, json.dumps(json.loads(output))) for version, output in found} == set(
        load.answers
    )


def metrics(address: str) -> str:
    return httpx.get(f"{address}/metrics", timeout=MOST).text


def serves(address: str, version: str) -> bool:
    answer = httpx.get(f"{address}/health/ready", timeout=MOST)
    return bool(answer.json()["model_version"] == version)


@pytest.mark.parametrize("keys", ["st:secret", ""], ids=["with keys", "without"])
def test_schemathesis_finds_no_answer_that_is_not_documented(served: Project, keys: str) -> None:
    port = free_port()
    program = ("uv", "run", "--isolated", "--no-project", "--with", "schemathesis>=4")
    header = ("-H", "X-API-Key: secret") if keys else ()
    with server(served, port, API_KEYS=keys, MAX_BODY_MB="1"):
        done = execute(
            *(*program, "schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json", *header),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "30"),
            *("--seed", "1", "--generation-database", "none", "--no-color"),
            cwd=served.path,
            timeout=900,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_slow_and_large_clients_do_not_stop_others(served: Project) -> None:
    port, request = free_port(), body(served)
    with server(served, port, MAX_BODY_MB="1"), ThreadPoolExecutor() as threads:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(700)]
        for number, one in enumerate(idle):
            if number < 100:
                one.sendall(b"POST /v1/predict HTTP/1.1\r\nX-Slow: ")  # a head without an end
            elif number < 400:
                one.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
            else:
                one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(0x8000))
        large = [threads.submit(upload, port, told=number % 2 == 0) for number in range(40)]
        load = blast(Load(), f"http://127.0.0.1:{port}", request, 2000)
        assert dict(load.codes) == {200: 2000}
        assert {answer.result() for answer in large} == {b"HTTP/1.1 413"}
        for number, one in enumerate(idle):
            one.settimeout(MOST)
            with one:
                # A head without an end is the business of the proxy in front.
                assert number < 100 or one.recv(4096)[:12] in (b"", b"HTTP/1.1 408"), (
                    "it still waits for a slow client"
                )


def chunk(size: int) -> bytes:
    return b"%x\r\n" % size + b" " * size + b"\r\n"


def upload(port: int, *, told: bool) -> bytes:
    """Send four megabytes, their length told before or not; return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", port), MOST) as one:
        with suppress(ConnectionError):  # it need not be read to its end
            if told:
                one.sendall(HEAD + b"Content-Length: 4194304\r\n\r\n" + b" " * 0x8000)
            else:
                one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(64):
                    one.sendall(chunk(0x10000))
        return one.recv(4096)[:12]


@pytest.mark.parametrize("requests", [8_000, pytest.param(200_000, marks=pytest.mark.rare)])
def test_memory_stays_flat_over_many_requests(served: Project, requests: int) -> None:
    port, request = free_port(), body(served)
    address = f"http://127.0.0.1:{port}"
    with server(served, port) as process:

        def megabytes() -> float:
            status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
            return int(status.partition("VmRSS:")[2].split()[0]) / 1024

        if not Path(f"/proc/{process.pid}/status").exists():
            pytest.skip("memory is read from /proc")
        first = max(requests // 10, 2_000)  # until then its pools grow
        blast(Load(), address, request, first, 16, keep=False)
        before = megabytes()
        load = blast(Load(), address, request, requests, 16, keep=False)
        after = megabytes()
    print(f"{before:.0f} MB after {first:,} requests, {after:.0f} MB after {requests:,} more")
    assert dict(load.codes) == {200: requests}
    assert after - before < 20


FLAT = Path(__file__).parent / "data/flat-bundle"  # made before 1.0.0; less its plots and samples


def test_a_bundle_of_the_layout_before_is_served(served: Project) -> None:
    """Its columns are all sent by the client, and it knows neither a version nor check rows."""
    example = json.loads((FLAT / "bundle.json").read_text("utf-8"))["example"]
    port = free_port()
    with server(served, port, BUNDLE=str(FLAT)):
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json={"rows": [example]}).json()
    assert answer["model_version"] == "1"
    (prediction,) = answer["predictions"]
    assert prediction["label"] == "on_time"
    # What the server of that time answered.
    assert prediction["probabilities"]["late"] == pytest.approx(0.2782887816429138, abs=1e-6)
