"""What a server owes its clients beside predictions: order, limits, patience, a log that counts."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
import requests
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project
from mlops_loop.cli import operate as cli
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.serving import service
from mlops_loop.serving.app import create_app
from mlops_loop.serving.http import auth, middleware

from .conftest import change, model_file, run_stages
from .server import SERVED, free_port, install, logged, redis, running, until, value

PREDICT = "/v1/predict"
V2 = f"/v2/models/{current_project().name}"
JSON = {"Content-Type": "application/json"}


def serving() -> TestClient:
    return TestClient(create_app(), "http://127.0.0.1")


def ask(client: TestClient, row: dict, rows: int = 1, **headers: str | bytes):
    """Ask for so many equal rows; a header's `_` is a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(PREDICT, json={"rows": [row] * rows}, headers=named)


def metrics(address: str) -> str:
    return requests.get(f"{address}/metrics", timeout=60).text


def malformed(row: dict) -> list[bytes]:
    """Bodies that are no request: broken JSON, wrong shapes, odd numbers, bad text."""
    good, name = json.dumps({"rows": [row]}).encode(), next(iter(row))
    shapes = [None, 1, "rows", [], {}, {"rows": {}}, {"rows": [None]}, {"rows": []}]
    values = [10**400, -(10**400), float("nan"), float("inf"), [row], {"a": 1}]
    return [
        *(json.dumps(shape).encode() for shape in shapes),
        *(json.dumps({"rows": [row | {name: value}]}).encode() for value in values),
        *(good[:place] for place in range(1, len(good) - 1)),
        good + good,
        b"[" * 100_000,
        b'{"rows": ' * 5000 + good,
        json.dumps({"rows": [dict.fromkeys(row, 1e308)]}).replace("e+308", "e999").encode(),
        good.decode().encode("utf-16"),
        b'{"rows": [{' + json.dumps(name).encode() + b': "\\ud800"}]}',
        b"\xef\xbb\xbf" + good,
    ]


def test_malformed_bodies_are_the_clients_mistakes(client, row) -> None:
    for path, word in ((PREDICT, "detail"), ("/v1/outcomes", "detail"), (f"{V2}/infer", "error")):
        found = set()
        for body in malformed(row):
            answer = client.post(path, content=body, headers=JSON)
            found.add(answer.status_code)
            assert len(answer.content) < 1000
            assert answer.json()[word]
        assert {400, 422} <= found <= {400, 413, 422}, path
    assert logged() == []


def test_only_json_is_taken_and_only_so_much(client, row) -> None:
    def code(path: str = PREDICT, headers: dict[str, str] = JSON, **body: object) -> int:
        return client.post(path, headers=headers, **body).status_code

    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert code(headers={"Content-Type": kind}, content=json.dumps({"rows": [row]})) == 415
    assert code(headers=JSON | {"Content-Encoding": "gzip"}, content=b"") == 415
    assert code(json={"rows": [row] * 1001}) == 413
    outcome = {"prediction_id": "0" * 32, "value": (load_schema().classes or [1])[0]}
    assert code("/v1/outcomes", json={"outcomes": [outcome] * 10_001}) == 413
    large = b" " * (9 * 2**20)
    assert code(content=large) == 413
    assert code(content=(large[:100_000] for _ in range(100))) == 413


def test_every_answer_names_its_request_and_is_kept_to_itself(client) -> None:
    for path in ("/", "/docs", "/health/live", "/v1/model", "/no/such/path"):
        headers = client.get(path, headers={"X-Request-Id": "abc-1"}).headers
        assert headers["X-Request-Id"] == "abc-1"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "server" not in headers
    for odd in ("<script>", "a" * 65, "a b"):
        headers = client.get("/health/live", headers={"X-Request-Id": odd}).headers
        assert headers["X-Request-Id"] != odd


def test_a_request_that_is_sent_again_is_answered_alike_and_logged_once(client, row) -> None:
    first = ask(client, row, 3, Idempotency_Key="k1").json()
    assert ask(client, row, 3, Idempotency_Key="k1").json() == first
    assert len(logged()) == 3
    shorter = ask(client, row, 1, Idempotency_Key="k1").json()
    assert shorter["predictions"][0]["id"] != first["predictions"][0]["id"]
    assert ask(client, row, 3, Idempotency_Key="k2").json() != first
    assert ask(client, row, 1, Idempotency_Key="é".encode()).status_code == 400
    with ThreadPoolExecutor(8) as threads:
        many = threads.map(lambda _: ask(client, row, 1, Idempotency_Key="k3").text, range(20))
    assert len(set(many)) == 1
    assert len(logged()) == 3 + 1 + 3 + 1


def test_a_request_that_is_sent_again_on_another_day_is_logged_once(
    client, row, monkeypatch
) -> None:
    first = ask(client, row, 3, Idempotency_Key="k1").json()
    for days, same in ((1, True), (7, True), (8, False)):

        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None, *, days: int = days) -> datetime:
                return datetime.now(tz) + timedelta(days=days)

        monkeypatch.setattr(service, "datetime", Later)
        assert (ask(client, row, 3, Idempotency_Key="k1").json() == first) == same
    assert len(logged()) == 6


def test_a_request_is_logged_once_also_if_the_log_goes_away_between(
    project, row, monkeypatch
) -> None:
    folder, away = Path("database"), Path("away")
    folder.mkdir()
    url = f"sqlite:///{folder}/log.db"
    monkeypatch.setenv("PREDICTION_LOG_URL", url)
    with serving() as client:

        def send(key: str) -> dict:
            return ask(client, row, Idempotency_Key=key).json()

        def log() -> dict:
            return client.get("/health/ready").json()["log"]

        first = send("a")
        folder.rename(away)
        send("x")  # which finds out
        assert not log()["answers"]
        second = send("b")
        assert send("a") == first
        away.rename(folder)
        until(lambda: log()["answers"] and not log()["spool_bytes"])
        assert (send("a"), send("b")) == (first, second)
    with open_log(url).connect() as connection:
        assert len(connection.execute(PREDICTIONS.select()).all()) == 3


def test_too_much_at_once_is_refused_for_the_moment(client, row, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(middleware, "MAX_BYTES_HELD", 0)
        answers = ask(client, row), ask(client, row, 1000)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].headers["Retry-After"] == "1"
    assert ask(client, row, 1000).status_code == 200


def test_ready_is_said_only_if_predictions_are_answered(client, monkeypatch) -> None:
    for full, code in ((False, 200), (True, 503)):
        monkeypatch.setattr(client.app.state.service.writer, "full", full)
        for path in ("/health/ready", "/v2/health/ready", f"{V2}/ready"):
            assert client.get(path).status_code == code


def test_without_keys_pages_of_other_sites_get_nothing(client, row) -> None:
    local = "127.0.0.1", "localhost:8000", "[::1]:8000", "127.0.0.2"
    foreign = "evil.example", "127.0.0.1.evil.example", "192.168.0.7"
    origins = {"http://localhost": 200, "http://evil.example": 403, "null": 403}
    cases = [({"Host": host}, 200) for host in local] + [({"Host": host}, 403) for host in foreign]
    cases += [({"Host": "localhost", "Origin": site}, code) for site, code in origins.items()]
    for headers, code in cases:
        assert ask(client, row, **headers).status_code == code, headers
    assert len(logged()) == 5


@pytest.mark.parametrize("key", ["", "a secret"])
def test_sensitive_columns_are_not_in_the_log(project, row, monkeypatch, key) -> None:
    name = next(name for name in load_schema().features if name in row)
    change(files.SCHEMA, "columns", name, pii=True)
    run_stages("export")
    monkeypatch.setenv("PII_KEY", key)
    with serving() as client:
        assert ask(client, row).status_code == 200
    features = logged()[-1]["features"]
    assert len(features.pop(name, "")) == (64 if key else 0)
    assert features == {other: row[other] for other in row if other != name}


def test_a_key_may_ask_so_often_and_no_other_pays_for_it(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "web:first,team-c:second")
    monkeypatch.setenv("RATE_LIMIT", "20")
    with serving() as client:
        until(lambda: time.time() % 60 < 50)  # where a minute ends, a little more is let through
        answers = [ask(client, row, X_API_Key="first") for _ in range(30)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 10
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert ask(client, row, X_API_Key="second").status_code == 200
        assert ask(client, row, X_API_Key="wrong").status_code == 401


def test_a_rate_limit_in_redis_holds_over_all_processes(project, row, monkeypatch) -> None:
    with redis() as url:
        monkeypatch.setenv("RATE_LIMIT", "20")
        monkeypatch.setenv("RATE_LIMIT_URL", url)
        with running("--workers", "2") as (address, _), ThreadPoolExecutor(8) as threads:

            def code(_: int) -> int:  # each on a new connection, so that both processes are asked
                body = {"rows": [row]}
                return requests.post(address + PREDICT, json=body, timeout=60).status_code

            until(lambda: time.time() % 60 < 30)  # as above
            codes = list(threads.map(code, range(40)))
            # One of the processes may have answered them all while the other was starting.
            until(lambda: value(metrics(address), "model_ready") == 1)
            told = metrics(address)
    assert (codes.count(200), codes.count(429)) == (20, 20)
    assert value(told, "requests_total", f'route="{PREDICT}"') == 40
    assert (value(told, "model_ready"), value(told, "log_up")) == (1, 1)


def test_redis_may_be_away_and_its_address_is_no_secret_s_leak(
    project, row, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("RATE_LIMIT", "1")
    monkeypatch.setenv("RATE_LIMIT_URL", f"redis://:secret@127.0.0.1:{free_port()}")
    with serving() as client:
        for _ in range(3):
            assert ask(client, row).status_code == 200
    assert "requests are not limited" in caplog.text
    monkeypatch.setenv("RATE_LIMIT_URL", "ftp://:secret@host")
    with pytest.raises(Failure, match="RATE_LIMIT_URL") as caught:
        create_app()
    assert "secret" not in str(caught.value) + caplog.text


def test_what_get_answers_head_answers_without_a_body(client) -> None:
    for path in ("/", "/health/live", "/health/ready", "/metrics", "/v1/model", "/v2", "/docs"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Type"] == client.get(path).headers["Content-Type"]
    assert client.head(PREDICT).status_code == 405
    assert client.get(PREDICT).headers["Allow"] == "POST"


def test_behind_a_proxy_with_a_prefix_no_address_leads_away_from_it(client, row) -> None:
    page = client.get("/docs").text
    links = re.findall(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""", page)
    found = {link for pair in links for link in pair if link}
    assert len(found) == 4
    for link in found:
        assert not link.startswith(("/", "http"))
        assert client.get(f"/{link}").status_code == 200
    assert client.get("/openapi.json").json()["servers"] == [{"url": "."}]
    for path in ("/v1/model/", "/health/ready/"):
        assert client.get(path, follow_redirects=False).status_code == 200
    assert client.post(f"{PREDICT}/", json={"rows": [row]}).status_code == 200


def test_keys_are_asked_for(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first,b:second")
    with serving() as client:
        for key, code in (("second", 200), ("third", 401), ("", 401), ("é", 401)):
            assert ask(client, row, X_API_Key=key.encode()).status_code == code
        # Without a key all that is not open is closed.
        for path, word in (("/v1/model", "detail"), ("/no/such/path", "detail"), (V2, "error")):
            answer = client.get(path)
            assert (answer.status_code, list(answer.json())) == (401, [word])
        for path in ("/health/ready", "/v2/health/ready"):
            assert client.get(path).status_code == 200
    assert [line["key_name"] for line in logged()] == ["b"]


def test_keys_are_replaced_without_a_restart(project, row, monkeypatch) -> None:
    keys = Path("keys")
    keys.write_text("a:first")
    monkeypatch.setenv("API_KEYS_FILE", str(keys))
    monkeypatch.setattr(auth, "RELOAD_SECONDS", 0)
    with serving() as client:
        for text, known in (
            ("# ours\na:first\n", [True, False]),
            ("a:first\nb:second\n", [True, True]),
            ("nonsense", [True, True]),
            ("b:second\n", [False, True]),
            ("", [False, True]),
        ):
            keys.write_text(text) if text else keys.unlink()
            given = [ask(client, row, X_API_Key=key).status_code for key in ("first", "second")]
            assert [code == 200 for code in given] == known


@pytest.mark.parametrize(("keys", "limit"), [("", "0"), ("a:first", "0"), ("", "9"), ("a:b", "9")])
def test_the_openapi_document_says_which_keys_and_limits_are_in_force(
    project, monkeypatch, keys, limit
) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    monkeypatch.setenv("RATE_LIMIT", limit)
    expected = {401 if keys else 403, *([429] if limit != "0" else [])}
    with serving() as client:
        document = client.get("/openapi.json").json()
        assert document["info"]["title"] == current_project().name
        assert ("securitySchemes" in document["components"]) == bool(keys)
        for path, operations in document["paths"].items():
            closed = path in {PREDICT, "/v1/outcomes", "/v1/model"}
            ((method, operation),) = operations.items()
            answers = {int(code) for code in operation["responses"]} & {401, 403, 429}
            assert answers == (expected if closed else set())
            assert ("security" in operation) == (bool(keys) and closed)
            # What the document says is what happens, without a key and from another host.
            code = client.request(method, path, headers={"Host": "other.example"}).status_code
            assert code in answers if closed else code not in (401, 403)


def test_metrics_tell_what_was_predicted(client, row) -> None:
    schema = load_schema()
    counted = {"rows": True, "labels": schema.classes, "deciles": not schema.classes[2:]}
    names = [name for name, there in counted.items() if there]

    def counts() -> list[float]:
        text = client.get("/metrics").text
        return [value(text, f"predicted_{name}_total", '"champion"') for name in names]

    before = counts()
    ask(client, row, 7)
    ask(client, {})
    assert counts() == [count + 7 for count in before]
    until(lambda: value(client.get("/metrics").text, "model_ready") == 1)


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_a_server_ends_in_order(project, row, options) -> None:
    body = {"rows": [row] * 1000}
    with running(*options) as (address, process), ThreadPoolExecutor(4) as threads:
        url = address + PREDICT
        asked = [threads.submit(requests.post, url, json=body, timeout=60) for _ in range(4)]
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        done = [answer.result() for answer in asked if not answer.exception()]
        assert process.wait(60) == 0
    assert all(answer.status_code == 200 for answer in done)
    ids = {one["id"] for answer in done for one in answer.json()["predictions"]}
    assert ids <= {line["id"] for line in logged()}


def test_clients_that_go_away_or_are_slow_hold_up_nobody(project, row) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running() as (address, _):

        def begin() -> socket.socket:
            made = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
            made.sendall(head + b"Content-Length: 99\r\n\r\n{")
            return made

        begin().close()
        until(lambda: value(metrics(address), "errors_total", 'kind="gone"') == 1)
        assert value(metrics(address), "errors_total", 'kind="server"') == 0
        slow = [begin() for _ in range(600)]
        for _ in range(20):
            assert requests.post(address + PREDICT, json={"rows": [row]}, timeout=60).ok
        assert b" 408 " in slow[0].recv(1000)
        for one in slow:
            one.close()


def test_nothing_that_a_client_writes_like_a_place_is_echoed(client, row) -> None:
    secret, known = "x - at `$[5].MY SECRET 4711", "0" * 32
    rows = [row | {secret: 1}, row | {next(iter(row)): [secret]}, dict.fromkeys(row, secret)]
    outcomes = [{"prediction_id": secret}, {"prediction_id": known, secret: 1}]
    bodies = [(PREDICT, {"rows": [one]}) for one in rows] + [(PREDICT, {"rows": [row], secret: 1})]
    bodies += [("/v1/outcomes", {"outcomes": [one | {"value": secret}]}) for one in outcomes]
    for path, body in bodies:
        answer = client.post(path, json=body)
        assert answer.status_code == 422, (path, body)
        assert "SECRET" not in answer.text


def test_a_new_model_is_served_by_all_workers_and_a_broken_one_by_none(
    project, row, monkeypatch
) -> None:
    install("1")
    monkeypatch.setenv("BUNDLE", str(SERVED))
    log = Path("server.log")
    with running("--workers", "2") as (address, process):

        def ready() -> dict:
            return requests.get(f"{address}/health/ready", timeout=60).json()

        def versions() -> set[str]:  # each time a new connection, so that both processes are asked
            return {ready()["model_version"] for _ in range(12)}

        until(lambda: log.read_text().count("Application startup complete") == 2)
        assert versions() == {"1"}
        install("2")
        until(lambda: versions() == {"2"})
        (SERVED / "model.onnx").write_bytes(b"no graph")
        until(lambda: log.read_text().count("version 2 is served on") == 2)  # said by each process
        assert (versions(), "refused" in ready()) == ({"2"}, True)
        shutil.rmtree(SERVED)
        until(lambda: log.read_text().count("there is no bundle") >= 2)
        assert requests.post(address + PREDICT, json={"rows": [row]}, timeout=60).ok
        install("3")
        until(lambda: versions() == {"3"})
        restart(process, address)
        assert versions() == {"3"}
        until(lambda: value(metrics(address), "model_ready") == 1)  # none of a dead process


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
    with suppress(requests.ConnectionError):
        return requests.get(f"{address}/health/ready", timeout=60).ok
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


def test_serving_is_refused_without_keys_off_loopback_or_with_a_changed_bundle(project) -> None:
    with pytest.raises(Failure, match="API_KEYS must be set"):
        cli.serve(host="0.0.0.0")
    with model_file().open("ab") as model:
        model.write(b"x")
    with pytest.raises(Failure, match=r"model\.\w+ is missing or was changed"):
        cli.serve()
