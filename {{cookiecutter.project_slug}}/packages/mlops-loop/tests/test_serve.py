"""What a server owes its clients beside predictions: order, limits, patience, a log that counts."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.serving.app import create_app
from mlops_loop.serving.http import auth, request_body

from .conftest import change, run_stages
from .server import SERVED, free_port, install, logged, redis, running, until, value

NAME = current_project().name

JSON = {"Content-Type": "application/json"}


def malformed(row: dict, count: int):
    """Give bodies that are no request: broken JSON, wrong shapes, odd numbers, bad text."""
    draw, good = random.Random(0), json.dumps({"rows": [row]}).encode()
    name = next(iter(row))
    for number in range(count):
        place = draw.randrange(1, len(good) - 1)
        yield [
            good[:place],
            good + good,
            good[:1] + draw.randbytes(8) + good[1:],
            b"[" * draw.randrange(1, 100_000),
            b'{"rows": ' * draw.randrange(2, 5000) + good,
            json.dumps({"rows": [row | {name: 10**400 * (place % 2 * 2 - 1)}]}).encode(),
            json.dumps({"rows": [row | dict.fromkeys(row, 1e308)]})
            .replace("e+308", "e999")
            .encode(),
            json.dumps(
                {"rows": [row | {name: draw.choice([float("nan"), float("inf"), [row], {"a": 1}])}]}
            ).encode(),
            good.decode().encode("utf-16"),
            b'{"rows": [{' + json.dumps(name).encode() + b': "\\ud800"}]}',
            b"\xef\xbb\xbf" + good,
            json.dumps(
                draw.choice([None, 1, "rows", [], {}, {"rows": {}}, {"rows": [None]}, {"rows": []}])
            ).encode(),
        ][number % 12]


def test_a_thousand_malformed_bodies_are_the_clients_mistakes(project, row) -> None:
    found, said = set(), ("detail", "detail", "error")
    paths = "/v1/predict", "/v1/outcomes", f"/v2/models/{NAME}/infer"
    with running() as (address, _), requests.Session() as session:
        for body in malformed(row, 1000):
            for path, word in zip(paths, said, strict=True):
                answer = session.post(address + path, data=body, headers=JSON, timeout=60)
                found.add((path, answer.status_code))
                assert 400 <= answer.status_code < 500, (path, answer.status_code, body[:200])
                assert len(answer.content) < 1000
                assert answer.json()[word]
    assert {(path, code) for path in paths for code in (400, 422)} <= found
    assert logged() == []


def test_only_json_is_taken_and_only_so_much(client, row, monkeypatch) -> None:
    body = json.dumps({"rows": [row]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/v1/predict", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 415
    packed = client.post("/v1/predict", content=b"", headers=JSON | {"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    assert client.post("/v1/predict", json={"rows": [row] * 1001}).status_code == 413
    value = (load_schema().classes or [1])[0]
    many = [{"prediction_id": "0" * 32, "value": value}] * 10_001
    assert client.post("/v1/outcomes", json={"outcomes": many}).status_code == 413
    large = b" " * (9 * 2**20)
    assert client.post("/v1/predict", content=large, headers=JSON).status_code == 413
    chunks = (large[:100_000] for _ in range(100))
    assert client.post("/v1/predict", content=chunks, headers=JSON).status_code == 413


def test_every_answer_names_its_request_and_is_kept_to_itself(client, row) -> None:
    for path in ("/", "/docs", "/health/live", "/v1/model", "/no/such/path"):
        headers = client.get(path, headers={"X-Request-Id": "abc-1"}).headers
        assert headers["X-Request-Id"] == "abc-1"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "server" not in headers
    for odd in ("<script>", "a" * 65, "a b"):
        assert (
            client.get("/health/live", headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd
        )


def test_a_request_that_is_sent_again_is_answered_alike_and_logged_once(client, row) -> None:
    send = lambda body, key: client.post("/v1/predict", json=body, headers={"Idempotency-Key": key})  # noqa: E731
    first, again = send({"rows": [row] * 3}, "k1"), send({"rows": [row] * 3}, "k1")
    assert first.json() == again.json()
    assert len(logged()) == 3
    assert (
        send({"rows": [row]}, "k1").json()["predictions"][0]["id"]
        != first.json()["predictions"][0]["id"]
    )
    assert send({"rows": [row] * 3}, "k2").json() != first.json()
    assert send({"rows": [row]}, "é".encode()).status_code == 400
    with ThreadPoolExecutor(8) as threads:
        many = list(
            threads.map(
                lambda _: send({"rows": [row]}, "k3").json()["predictions"][0]["id"], range(20)
            )
        )
    assert len(set(many)) == 1
    assert len(logged()) == 3 + 1 + 3 + 1


def test_a_request_is_logged_once_also_if_the_log_goes_away_between(
    project, row, monkeypatch
) -> None:
    folder, away = Path("database"), Path("away")
    folder.mkdir()
    monkeypatch.setenv("PREDICTION_LOG_URL", f"sqlite:///{folder}/log.db")
    with TestClient(create_app(), "http://127.0.0.1") as client:

        def send(key: str) -> dict:
            headers = {"Idempotency-Key": key}
            return client.post("/v1/predict", json={"rows": [row]}, headers=headers).json()

        there = lambda: client.get("/health/ready").json()["log"]  # noqa: E731
        first = send("a")
        folder.rename(away)
        send("x")  # which finds out
        assert not there()["answers"]
        second = send("b")
        assert send("a") == first
        away.rename(folder)
        until(lambda: there()["answers"] and not there()["spool_bytes"])
        assert (send("a"), send("b")) == (first, second)
    with open_log(f"sqlite:///{folder}/log.db").connect() as connection:
        assert len(connection.execute(PREDICTIONS.select()).all()) == 3


def test_too_much_at_once_is_refused_for_the_moment(client, row, monkeypatch) -> None:
    ask = lambda rows: client.post("/v1/predict", json={"rows": [row] * rows})  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(request_body, "MAX_REQUESTS", 0)
        assert (ask(1).status_code, ask(1).headers["Retry-After"]) == (503, "1")
    with monkeypatch.context() as patch:
        patch.setattr(request_body, "MAX_BYTES_HELD", 0)
        assert (ask(1).status_code, ask(1000).status_code) == (200, 503)
    assert ask(1000).status_code == 200


def test_ready_is_said_only_if_predictions_are_answered(client, monkeypatch) -> None:
    paths = "/health/ready", "/v2/health/ready", f"/v2/models/{NAME}/ready"
    assert [client.get(path).status_code for path in paths] == [200] * 3
    monkeypatch.setattr(client.app.state.service.writer, "full", True)
    assert [client.get(path).status_code for path in paths] == [503] * 3


def test_without_keys_pages_of_other_sites_get_nothing(client, row) -> None:
    def code(**headers: str) -> int:
        return client.post("/v1/predict", json={"rows": [row]}, headers=headers).status_code

    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "127.0.0.2"):
        assert code(Host=host) == 200
    assert code(Host="localhost:8000", Origin="http://localhost:8000") == 200
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7"):
        assert code(Host=host) == 403
    assert code(Host="localhost:8000", Origin="http://evil.example") == 403
    assert code(Host="localhost:8000", Origin="null") == 403
    assert len(logged()) == 5


def test_sensitive_columns_are_not_in_the_log(project, row, monkeypatch) -> None:
    name = next(name for name in load_schema().features if name in row)
    change(files.SCHEMA, "columns", name, pii=True)
    run_stages("export")
    for key, kept in (("", None), ("a secret", 64)):
        monkeypatch.setenv("PII_KEY", key)
        with TestClient(create_app(), "http://127.0.0.1") as client:
            assert client.post("/v1/predict", json={"rows": [row]}).status_code == 200
        features = logged()[-1]["features"]
        assert len(features[name]) == kept if kept else name not in features
        assert {key: value for key, value in features.items() if key != name} == {
            key: value for key, value in row.items() if key != name
        }


def test_a_key_may_ask_so_often_and_no_other_pays_for_it(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "web:first,team-c:second")
    monkeypatch.setenv("RATE_LIMIT", "20")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        ask = lambda key: client.post(  # noqa: E731
            "/v1/predict", json={"rows": [row]}, headers={"X-API-Key": key}
        )
        until(lambda: time.time() % 60 < 50)  # where a minute ends, a little more is let through
        answers = [ask("first") for _ in range(30)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 10
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert ask("second").status_code == 200
        assert ask("wrong").status_code == 401


def test_a_rate_limit_in_redis_holds_over_all_processes(project, row, monkeypatch) -> None:
    with redis() as url:
        monkeypatch.setenv("RATE_LIMIT", "100")
        monkeypatch.setenv("RATE_LIMIT_URL", url)
        with running("--workers", "2") as (address, _), ThreadPoolExecutor(8) as threads:

            def ask(_: int) -> int:  # each time a new connection, so that both processes are asked
                return requests.post(
                    f"{address}/v1/predict", json={"rows": [row]}, timeout=60
                ).status_code

            codes = list(threads.map(ask, range(160)))
            told = requests.get(f"{address}/metrics", timeout=60).text
    assert codes.count(200) == 100
    assert codes.count(429) == 60
    assert value(told, "requests_total", 'route="/v1/predict"') == 160
    assert (value(told, "model_ready"), value(told, "log_up")) == (1, 1)


def test_requests_are_not_held_up_while_redis_is_away(project, row, monkeypatch, caplog) -> None:
    monkeypatch.setenv("RATE_LIMIT", "1")
    monkeypatch.setenv("RATE_LIMIT_URL", f"redis://:secret@127.0.0.1:{free_port()}")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        for _ in range(3):
            assert client.post("/v1/predict", json={"rows": [row]}).status_code == 200
    assert "requests are not limited" in caplog.text
    assert "secret" not in caplog.text


def test_a_rate_limit_is_counted_in_memory_or_in_redis_and_nowhere_else(
    project, monkeypatch
) -> None:
    monkeypatch.setenv("RATE_LIMIT", "1")
    monkeypatch.setenv("RATE_LIMIT_URL", "ftp://:secret@host")
    with pytest.raises(Failure, match="RATE_LIMIT_URL") as caught:
        create_app()
    assert "secret" not in str(caught.value)


def test_what_get_answers_head_answers_without_a_body(client) -> None:
    for path in ("/", "/health/live", "/health/ready", "/metrics", "/v1/model", "/v2", "/docs"):
        got = client.get(path)
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert client.head("/v1/predict").status_code == 405
    assert client.get("/v1/predict").headers["Allow"] == "POST"
    with running() as (address, _):
        for path in ("/health/live", "/v1/model"):
            head = requests.head(address + path, timeout=60)
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["Content-Length"]) > 0


def test_behind_a_proxy_with_a_prefix_no_address_leads_away_from_it(client, row) -> None:
    page = client.get("/docs").text
    links = re.findall(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""", page)
    found = {link for pair in links for link in pair if link}
    assert len(found) == 4
    for link in found:
        assert not link.startswith(("/", "http"))
        assert client.get(f"/{link}").status_code == 200
    assert client.get("/openapi.json").json()["servers"] == [{"url": "."}]
    for path in ("/v1/predict/", "/v1/model/", "/health/ready/"):
        body = {"rows": [row]} if "predict" in path else None
        method = "POST" if body else "GET"
        answer = client.request(method, path, json=body, follow_redirects=False)
        assert answer.status_code == 200


def test_keys_are_replaced_without_a_restart(project, row, monkeypatch) -> None:
    keys = Path("keys")
    keys.write_text("# ours\na:first\n")
    monkeypatch.setenv("API_KEYS_FILE", str(keys))
    monkeypatch.setattr(auth, "RELOAD_SECONDS", 0)
    with TestClient(create_app(), "http://127.0.0.1") as client:
        code = lambda key: client.get("/v1/model", headers={"X-API-Key": key}).status_code  # noqa: E731
        assert (code("first"), code("second")) == (200, 401)
        keys.write_text("a:first\nb:second\n")
        assert (code("first"), code("second")) == (200, 200)
        keys.write_text("nonsense")
        assert (code("first"), code("second")) == (200, 200)
        keys.write_text("b:second\n")
        assert (code("first"), code("second")) == (401, 200)
        keys.unlink()
        assert code("second") == 200


def test_metrics_tell_what_was_predicted(client, row) -> None:
    def found(name: str, *parts: str) -> float:
        return value(client.get("/metrics").text, name, *parts)

    before = found("predicted_rows_total"), found("errors_total", 'kind="contract"')
    client.post("/v1/predict", json={"rows": [row] * 7})
    client.post("/v1/predict", json={"rows": [{}]})
    assert (found("predicted_rows_total"), found("errors_total", 'kind="contract"')) == (
        before[0] + 7,
        before[1] + 1,
    )
    schema = load_schema()
    if schema.classes:
        assert found("predicted_labels_total", 'variant="champion"') >= 7
    if not schema.classes or schema.positive:
        assert found("predicted_deciles_total", 'variant="champion"') >= 7
    assert found("request_seconds_count", 'route="/v1/predict"') >= 2
    until(lambda: found("model_ready") == 1)
    assert "rows" not in client.get("/metrics").text.replace("_rows", "")


def test_a_server_ends_in_order(project, row, monkeypatch) -> None:
    for options in ([], ["--workers", "2"]):
        with running(*options) as (address, process), ThreadPoolExecutor(4) as threads:
            ask = lambda _: requests.post(  # noqa: E731
                f"{address}/v1/predict", json={"rows": [row] * 1000}, timeout=60
            )
            answers = [threads.submit(ask, number) for number in range(4)]
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            done = [answer.result() for answer in answers if not answer.exception()]
            assert process.wait(60) == 0
        assert all(answer.status_code == 200 for answer in done)
        ids = {one["id"] for answer in done for one in answer.json()["predictions"]}
        assert ids <= {line["id"] for line in logged()}


def test_a_client_that_goes_away_is_no_mistake_of_ours(project) -> None:
    with running() as (address, _):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as one:
            one.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
            )
            one.sendall(b"Content-Length: 1000\r\n\r\n{")
        metrics = lambda: requests.get(f"{address}/metrics", timeout=60).text  # noqa: E731
        until(lambda: value(metrics(), "errors_total", 'kind="gone"') == 1)
        assert value(metrics(), "errors_total", 'kind="server"') == 0


def test_nothing_that_a_client_writes_like_a_place_is_echoed(client, row) -> None:
    secret = "x - at `$[5].MY SECRET 4711"
    name = next(iter(load_schema().inputs))
    bodies = [
        ("/v1/predict", {"rows": [row | {secret: 1}]}),
        ("/v1/predict", {"rows": [row], secret: 1}),
        ("/v1/predict", {"rows": [row | {name: [secret]}]}),
        ("/v1/predict", {"rows": [dict.fromkeys(row, secret)]}),
        ("/v1/outcomes", {"outcomes": [{"prediction_id": secret, "value": secret}]}),
        ("/v1/outcomes", {"outcomes": [{"prediction_id": "0" * 32, "value": secret, secret: 1}]}),
    ]
    for path, body in bodies:
        answer = client.post(path, json=body)
        assert answer.status_code == 422, (path, body)
        assert "SECRET" not in answer.text


def test_a_process_that_starts_later_serves_on_although_the_new_bundle_cannot_be(
    project, row
) -> None:
    with running("--workers", "2") as (address, process):
        (files.BUNDLE / "model.onnx").write_bytes(b"no graph")
        restart(process, address)
        assert requests.post(f"{address}/v1/predict", json={"rows": [row]}, timeout=60).ok
        until(lambda: "refused" in requests.get(f"{address}/health/ready", timeout=60).json())


def test_a_client_that_is_slow_is_left_and_holds_up_nobody(project, row, monkeypatch) -> None:
    with running() as (address, _):
        host, port = address.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(600)]
        for one in slow:
            one.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            )
        for _ in range(20):
            assert (
                requests.post(f"{address}/v1/predict", json={"rows": [row]}, timeout=60).status_code
                == 200
            )
        assert b" 408 " in slow[0].recv(1000)
        for one in slow:
            one.close()


def test_a_new_model_comes_on_sighup_and_stays_also_with_more_processes(
    project, row, monkeypatch
) -> None:
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("there is no SIGHUP")
    install("1")
    monkeypatch.setenv("BUNDLE", str(SERVED))
    with running("--workers", "2") as (address, process):

        def versions() -> set[str]:  # each time a new connection, so that both processes are asked
            ready = [requests.get(f"{address}/health/ready", timeout=60).json() for _ in range(12)]
            return {one["model_version"] for one in ready}

        assert versions() == {"1"}
        install("2")
        process.send_signal(signal.SIGHUP)
        until(lambda: versions() == {"2"})
        (SERVED / "model.onnx").write_bytes(b"no graph")
        process.send_signal(signal.SIGHUP)
        until(lambda: "refused" in requests.get(f"{address}/health/ready", timeout=60).json())
        restart(process, address)
        assert versions() == {"2"}


def restart(process: subprocess.Popen, address: str) -> None:
    """Kill all that a server has started, and wait until it is there again."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("processes are found in /proc")
    before = set(children.read_text().split())
    for child in before:  # among them may be helpers of multiprocessing, which come again as well
        os.kill(int(child), signal.SIGKILL)
    until(lambda: not before & set(children.read_text().split()))
    until(lambda: answers(address))


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health/ready", timeout=60).ok
    except requests.ConnectionError:
        return False


def test_a_mistake_of_ours_is_logged_and_not_told(project, caplog) -> None:
    app = create_app()

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError("vulpes")

    with TestClient(app, "http://127.0.0.1") as client:
        answer = client.get("/fails", headers={"X-Request-Id": "abc"})
        assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
        assert answer.headers["X-Request-Id"] == "abc"
        assert value(client.get("/metrics").text, "errors_total", 'kind="server"') >= 1
    assert "request abc failed" in caplog.text
