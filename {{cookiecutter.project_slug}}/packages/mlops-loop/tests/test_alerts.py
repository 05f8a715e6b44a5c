import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.monitoring import alerts
from mlops_loop.monitoring.alerts import Delivery, open_service
from mlops_loop.monitoring.window_store import store
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.window_summary import Alarm, WindowSummary

from . import databases

SECRET = "/services/a-secret"
FILE = Path("out/alerts.jsonl")
TRIES = alerts.RETRIES + 1
UNDELIVERED = "JSON at 127.0.0.1 did not take the message"


def alarm(rule: str, subject: str, text: str, column: str | None = None) -> Alarm:
    verdict = rule.partition(".")[0]
    facts = {"rule": f"{verdict}: {subject}", "id": rule, "column": column, "verdict": verdict}
    return Alarm(**facts, value=0.645, limit=0.683, text=text)


DECAY = alarm("decay.roc_auc", "roc_auc", "roc_auc 0.645; on the test window it was 0.712")
WORSE = DECAY.model_copy(update={"text": "roc_auc 0.6"})
NULLS = alarm("quality.nulls", "nulls in temperature", "17.0% are missing", "temperature")
DRIFT = alarm("drift", "temperature", "temperature is 1.21 from the reference", "temperature")
ODD = alarm("quality.unseen", "unseen in <!channel>", "a & b < *c* \u2192 \u00e4", "<!channel>")


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `answers` say, then with 200; waits for the server's `go`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.got.append(body)
        server.paths.append(self.path)
        server.go.wait(60)
        status = server.answers.pop(0) if server.answers else 200
        server.taken += [body] * (status == 200)
        self.send_response(status)
        self.send_header("Location", f"{server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def receiver():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.paths, server.got, server.taken = [], [], [], []
        server.url, server.go = f"http://127.0.0.1:{server.server_port}{SECRET}", threading.Event()
        server.go.set()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alerts, "PAUSE", 0.01)
    for name in ("ALERT_URLS", "ALERT_WEBHOOK", "ALERT_FILE"):  # nobody else is told
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def engine(folder):
    engine = open_log("sqlite:///predictions.db")
    yield engine
    engine.dispose()


@pytest.fixture
def settings(receiver) -> Settings:
    return Settings(alert_urls=receiver.url, alert_file=str(FILE))


def window(month: int, *alarms: Alarm, **changes) -> WindowSummary:
    """What the monitor found in the month that ends at the beginning of this one."""
    name = f"2013-{month - 1:02}-01--2013-{month:02}-01"
    start, end = (datetime(2013, number, 1, tzinfo=UTC) for number in (month - 1, month))
    facts = {"model": "flights", "model_version": "2", "window": name, "start": start, "end": end}
    facts |= {"alarms": alarms, "report": f"reports/monitor/{name}/index.html"}
    return WindowSummary(**facts | changes)


def notify(engine, settings: Settings, *found, **changes) -> Delivery:
    summary = window(*found, **changes)
    store(engine, summary)  # as `monitor` does
    return alerts.notify(engine, settings, summary)


def told(messages: list) -> list[list[tuple[str, str]]]:
    """Status and rule of the alerts in each message."""
    return [
        [(alert["status"], alert["rule"]) for alert in message["alerts"]] for message in messages
    ]


def firing(*found: Alarm) -> list[tuple[str, str]]:
    return [("firing", one.rule) for one in found]


def resolved(*found: Alarm) -> list[tuple[str, str]]:
    return [("resolved", one.rule) for one in found]


def lines() -> list[dict]:
    return [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]


def test_told_once_when_it_begins_and_once_when_it_is_over(engine, settings, receiver) -> None:
    quiet, begun = Delivery([]), Delivery([f"firing: decay: roc_auc: {DECAY.text}"])
    assert notify(engine, settings, 4) == quiet
    assert not Path("out").exists()
    assert notify(engine, settings, 5, DECAY) == begun
    assert notify(engine, settings, 5, DECAY) == quiet  # the same window again
    assert notify(engine, settings, 6, WORSE) == quiet
    ended = Delivery([f"resolved: decay: roc_auc: before: {WORSE.text}"])
    assert notify(engine, settings, 7) == ended
    assert notify(engine, settings, 7) == notify(engine, settings, 8) == quiet
    assert notify(engine, settings, 9, DECAY) == begun
    assert told(receiver.got) == [firing(DECAY), resolved(DECAY), firing(DECAY)]
    states = [(line["status"], line["since"][:7]) for line in lines()]
    assert states == [("firing", "2013-05"), ("resolved", "2013-05"), ("firing", "2013-09")]
    notify(engine, settings, 9)  # the same window again without the alarm
    assert told(receiver.got)[3:] == [resolved(DECAY)]


def test_one_message_for_a_run(engine, settings, receiver) -> None:
    notify(engine, settings, 5, DECAY)
    assert len(notify(engine, settings, 6, DRIFT).lines) == 2
    assert told(receiver.got)[1:] == [[*firing(DRIFT), *resolved(DECAY)]]
    notify(engine, settings, 7)
    assert [message["status"] for message in receiver.got] == ["firing", "firing", "resolved"]


@pytest.mark.parametrize(
    ("alarm", "key"), [(DECAY, "decay"), (DECAY, "decay.roc_auc"), (NULLS, "quality.nulls")]
)
def test_what_could_not_be_judged_stays_open(engine, settings, receiver, alarm, key) -> None:
    notify(engine, settings, 5, alarm)
    assert notify(engine, settings, 6, not_judged={key: "too few"}).lines == []
    assert notify(engine, settings, 7, alarm).lines == []
    others = {"deca": "", "decay.roc": "", "quality.volume": "", "quality.null": ""}
    assert len(notify(engine, settings, 8, not_judged=others).lines) == 1
    assert told(receiver.got) == [firing(alarm), resolved(alarm)]


def test_a_look_back_is_no_news(engine, settings, receiver) -> None:
    notify(engine, settings, 7, DECAY)
    for old in ([DRIFT, DECAY], []):
        (line,) = notify(engine, settings, 6, *old).lines
        assert line.startswith("no alerts: the window to 2013-06-01 00:00 is older than")
    assert len(receiver.got) == 1
    assert len(notify(engine, settings, 6, DECAY, model="another").lines) == 1
    assert [message["model"] for message in receiver.got] == ["flights", "another"]


def test_a_message_is_tried_again_at_once(engine, settings, receiver) -> None:
    receiver.answers = [503, 500, 429]
    assert notify(engine, settings, 5, DECAY).undelivered == ""
    assert (len(receiver.got), len(receiver.taken)) == (TRIES, 1)


@pytest.mark.parametrize("status", [503, 404, 302])
def test_what_could_not_be_delivered_is_told_by_the_next_run(
    engine, settings, receiver, status
) -> None:
    receiver.answers = [status] * TRIES
    assert notify(engine, settings, 5, DECAY).undelivered == UNDELIVERED
    assert (len(receiver.got), receiver.taken) == (TRIES, [])
    assert notify(engine, settings, 5, DECAY, DRIFT).undelivered == ""
    assert told(receiver.taken) == [firing(DECAY, DRIFT)]
    assert [line["rule"] for line in lines()] == [DECAY.rule, DRIFT.rule]  # each once
    receiver.answers = [status] * TRIES
    notify(engine, settings, 6)
    assert notify(engine, settings, 7).lines == []
    assert told(receiver.taken)[1:] == [resolved(DECAY, DRIFT)]


def test_what_was_over_before_it_was_delivered_is_not_told(engine, settings, receiver) -> None:
    receiver.answers = [404] * TRIES
    notify(engine, settings, 5, DECAY)
    assert len(notify(engine, settings, 6).lines) == 1
    assert receiver.taken == []
    notify(engine, settings, 8, DECAY)
    assert told(receiver.taken) == [firing(DECAY)]


def test_a_slow_receiver_is_given_up(engine, settings, receiver, monkeypatch) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
    receiver.go.clear()
    assert notify(engine, settings, 5, DECAY).undelivered == UNDELIVERED


def test_every_service_is_told_and_a_setting_of_before_goes_on_working(
    engine, receiver, monkeypatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK", f"{receiver.url}?key=a%20b&c=d")
    notify(engine, Settings(), 5, DECAY)
    assert told(receiver.got) == [firing(DECAY)]
    assert receiver.paths == [f"{SECRET}?key=a+b&c=d"]
    two = f"{receiver.url}, {receiver.url.replace('http', 'json')}"
    notify(engine, Settings(alert_urls=two), 6)
    assert told(receiver.got)[1:] == [resolved(DECAY)] * 2


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("mailto://user:pass@example.com", "E-Mail"),
        ("https://hooks.example/x", "JSON"),
    ],
)
def test_services_are_known_by_their_own_address(url, service) -> None:
    assert open_service(url, {}).service_name == service


@pytest.mark.parametrize("url", ["nothing://hooks.example/a-secret", "a-secret"])
def test_an_address_that_is_none(engine, url) -> None:
    undelivered = notify(engine, Settings(alert_urls=url), 5, DECAY).undelivered
    assert undelivered == "ALERT_URLS holds what is no URL of a service that Apprise knows"


def test_the_url_is_never_shown(engine, receiver, capfd, caplog) -> None:
    """Not by what is returned, nor by Apprise and urllib3, which log where they post to."""
    caplog.set_level(logging.DEBUG)
    receiver.answers = [503] * TRIES
    said = []
    for month, url in enumerate((receiver.url, f"http://user:pass@127.0.0.1:9{SECRET}"), 5):
        settings = Settings(alert_urls=url)
        delivery = notify(engine, settings, month, DECAY)
        assert delivery.undelivered == UNDELIVERED
        said += [delivery, settings]
    everything = "".join((*map(repr, said), caplog.text, *capfd.readouterr()))
    assert "secret" not in everything
    assert "pass@" not in everything


def test_json(engine, settings, receiver) -> None:
    notify(engine, settings, 5, DECAY)
    (body,) = receiver.got
    assert body["title"].startswith("flights version 2: 1 firing")
    assert DECAY.text in body["message"]
    assert body["type"] == "warning"
    about = {"model": "flights", "model_version": "2", "window": "2013-04-01--2013-05-01"}
    alert = DECAY.model_dump() | {"status": "firing", "since": "2013-05-01T00:00:00+00:00"}
    expected = about | {
        "schema_version": 1,
        "status": "firing",
        "start": "2013-04-01T00:00:00+00:00",
        "end": "2013-05-01T00:00:00+00:00",
        "report": "reports/monitor/2013-04-01--2013-05-01/index.html",
        "alerts": [alert],
    }
    assert {key: body[key] for key in expected} == expected
    (line,) = lines()
    assert line.pop("time")
    assert line == about | alert


def test_a_file_that_cannot_be_written_keeps_no_service_from_being_told(
    engine, settings, receiver
) -> None:
    Path("out").write_text("in the way", "utf-8")
    assert notify(engine, settings, 5, DECAY).undelivered.startswith(f"{FILE}: ")
    assert told(receiver.got) == [firing(DECAY)]
    Path("out").unlink()
    assert notify(engine, settings, 6, DECAY, ODD).undelivered == ""
    assert [(line["rule"], line["text"]) for line in lines()] == [(ODD.rule, ODD.text)]


@pytest.mark.parametrize("file", ["", str(FILE)])
def test_a_webhook_that_is_set_later_hears_of_what_is_open(engine, receiver, file) -> None:
    assert len(notify(engine, Settings(alert_file=file), 5, DECAY, DRIFT).lines) == 2
    assert Path("out").exists() == bool(file)
    notify(engine, Settings(alert_file=file, alert_urls=receiver.url), 6, DECAY)
    assert told(receiver.got) == [firing(DECAY)]


def test_of_two_at_once_one_tells(engine, settings, receiver) -> None:
    summary = window(5, DECAY)
    store(engine, summary)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: alerts.notify(engine, settings, summary), range(8)))
    assert sum(len(delivery.lines) for delivery in found) == 1
    assert told(receiver.got) == [firing(DECAY)]


def test_on_postgresql(settings, receiver) -> None:
    with databases.postgres() as server:
        log = open_log(server.url)
        for month, found in enumerate([[DECAY], [DECAY, DRIFT], []], 5):
            notify(log, settings, month, *found)
        log.dispose()
    assert told(receiver.got) == [firing(DECAY), firing(DRIFT), resolved(DECAY, DRIFT)]


def test_a_database_that_cannot_be_used(engine, settings) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alert_states (something TEXT)")
    with pytest.raises(Failure, match="the prediction log, see PREDICTION_LOG_URL"):
        notify(engine, settings, 5, DECAY)
