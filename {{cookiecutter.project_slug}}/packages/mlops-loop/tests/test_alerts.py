import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.monitoring import alerts
from mlops_loop.monitoring.alerts import Delivery, open_service
from mlops_loop.monitoring.window_store import store
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.window_summary import Alarm, WindowSummary

from . import databases

SECRET = "/services/a-secret"
TRIES = alerts.RETRIES + 1
UNDELIVERED = "JSON at 127.0.0.1 did not take the message"
Found = tuple[str, str | None, str]  # id of a rule, column, text
DECAY: Found = "decay.roc_auc", None, "roc_auc 0.645; on the test window it was 0.712"
WORSE: Found = "decay.roc_auc", None, "roc_auc 0.6"
NULLS: Found = "quality.nulls", "temperature", "17.0% of temperature are missing"
DRIFT: Found = "drift", "temperature", "temperature is 1.21 from the reference"
ODD: Found = "quality.unseen", "<!channel>", "a & b < *c* [d](https://e.example) \u2192 \u00e4"
NAMES = {
    DECAY: "decay: roc_auc",
    WORSE: "decay: roc_auc",
    NULLS: "quality: nulls in temperature",
    DRIFT: "drift: temperature",
    ODD: "quality: unseen in <!channel>",
}


class Receiver(ThreadingHTTPServer):
    """Answers each POST as it is told to, then with 200; `block` lets it wait before it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.paths: list[str] = []
        self.got: list[Any] = []  # the bodies of all requests
        self.taken: list[Any] = []  # of those that were answered with 200
        self.block = threading.Event()
        self.block.set()
        self.url = f"http://127.0.0.1:{self.server_port}{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(body)
        self.server.paths.append(self.path)
        self.server.block.wait(60)
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == 200:
            self.server.taken.append(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.block.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alerts, "PAUSE", 0.01)
    for name in ("ALERT_URLS", "ALERT_WEBHOOK", "ALERT_FILE"):  # nobody else is told
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[sa.Engine]:
    engine = open_log("sqlite:///predictions.db")
    yield engine
    engine.dispose()


@pytest.fixture
def settings(receiver: Receiver) -> Settings:
    return Settings(alert_urls=receiver.url, alert_file="out/alerts.jsonl")


def window(month: int, *alarms: Found, **changes: Any) -> WindowSummary:
    """What the monitor found in the month that ends at the beginning of this one."""
    name = f"2013-{month - 1:02}-01--2013-{month:02}-01"
    found = [
        Alarm(
            rule=NAMES.get((rule, column, text), f"{rule}: {column}"),
            id=rule,
            column=column,
            verdict=rule.partition(".")[0],
            value=0.645,
            limit=0.683,
            text=text,
        )
        for rule, column, text in alarms
    ]
    facts: dict[str, Any] = {
        "model": "flights",
        "model_version": "2",
        "window": name,
        "start": datetime(2013, month - 1, 1, tzinfo=UTC),
        "end": datetime(2013, month, 1, tzinfo=UTC),
        "alarms": found,
        "report": f"reports/monitor/{name}/index.html",
    }
    return WindowSummary(**facts | changes)


def notify(engine: sa.Engine, settings: Settings, found: WindowSummary) -> Delivery:
    store(engine, found)  # as `monitor` does
    return alerts.notify(engine, settings, found)


def told(messages: list[Any]) -> list[list[tuple[str, str]]]:
    """Status and rule of the alerts in each message."""
    return [
        [(alert["status"], alert["rule"]) for alert in message["alerts"]] for message in messages
    ]


def firing(*found: Found) -> list[tuple[str, str]]:
    return [("firing", NAMES[one]) for one in found]


def resolved(*found: Found) -> list[tuple[str, str]]:
    return [("resolved", NAMES[one]) for one in found]


def lines(file: str = "out/alerts.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def test_a_quiet_window_is_no_news(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    assert notify(engine, settings, window(5)) == Delivery([], "")
    assert receiver.got == []
    assert not Path("out").exists()


def test_told_once_when_it_begins_and_once_when_it_is_over(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    begun = Delivery([f"alert: decay: {DECAY[2]}"])
    assert notify(engine, settings, window(5, DECAY)) == begun
    assert notify(engine, settings, window(5, DECAY)) == Delivery([])  # the same window again
    assert notify(engine, settings, window(6, WORSE)) == Delivery([])
    ended = "resolved: decay: roc_auc, which was last seen in the window to 2013-06-01"
    assert notify(engine, settings, window(7)) == Delivery([ended])
    assert notify(engine, settings, window(7)) == Delivery([])
    assert notify(engine, settings, window(8)) == Delivery([])
    assert notify(engine, settings, window(9, DECAY)) == begun
    assert told(receiver.got) == [firing(DECAY), resolved(DECAY), firing(DECAY)]
    assert [line["status"] for line in lines()] == ["firing", "resolved", "firing"]
    since = [line["since"][:7] for line in lines()]
    assert since == ["2013-05", "2013-05", "2013-09"]
    notify(engine, settings, window(9))  # the same window again without the alarm
    assert told(receiver.got)[3:] == [resolved(DECAY)]


def test_one_message_for_a_run(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(5, DECAY))
    assert len(notify(engine, settings, window(6, DRIFT)).lines) == 2
    assert told(receiver.got)[1:] == [[*firing(DRIFT), *resolved(DECAY)]]
    notify(engine, settings, window(7))
    assert [message["status"] for message in receiver.got] == ["firing", "firing", "resolved"]


@pytest.mark.parametrize(
    ("alarm", "key"), [(DECAY, "decay"), (DECAY, "decay.roc_auc"), (NULLS, "quality.nulls")]
)
def test_what_could_not_be_judged_stays_open(
    engine: sa.Engine, settings: Settings, receiver: Receiver, alarm: Found, key: str
) -> None:
    notify(engine, settings, window(5, alarm))
    assert notify(engine, settings, window(6, not_judged={key: "too few"})).lines == []
    assert notify(engine, settings, window(7, alarm)).lines == []
    others = {"deca": "", "decay.roc": "", "quality.volume": "", "quality.null": ""}
    assert len(notify(engine, settings, window(8, not_judged=others)).lines) == 1
    assert told(receiver.got) == [firing(alarm), resolved(alarm)]


def test_a_look_back_is_no_news(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(7, DECAY))
    for old in (window(6, DRIFT, DECAY), window(6)):
        (line,) = notify(engine, settings, old).lines
        assert line.startswith("no alerts: the window to 2013-06-01 00:00 is older than")
    assert len(receiver.got) == 1
    notify(engine, settings, window(8))
    (line,) = notify(engine, settings, window(7, DECAY)).lines  # without alarms it is newer, too
    assert line.startswith("no alerts")
    assert len(notify(engine, settings, window(6, DECAY, model="another")).lines) == 1
    assert [message["model"] for message in receiver.got] == ["flights", "flights", "another"]


def test_retried(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (500, {}), (429, {})]
    assert notify(engine, settings, window(5, DECAY)).undelivered == ""
    assert len(receiver.got) == TRIES
    assert len(receiver.taken) == 1


@pytest.mark.parametrize("status", [503, 404, 302])
def test_what_could_not_be_delivered_is_told_by_the_next_run(
    engine: sa.Engine, settings: Settings, receiver: Receiver, status: int
) -> None:
    failing = [(status, {"Location": f"{receiver.url}/elsewhere"})] * TRIES
    receiver.answers = list(failing)
    first = notify(engine, settings, window(5, DECAY))
    assert first == Delivery([f"alert: decay: {DECAY[2]}"], UNDELIVERED)
    assert len(receiver.got) == TRIES
    assert receiver.taken == []
    assert notify(engine, settings, window(5, DECAY, DRIFT)).undelivered == ""
    assert told(receiver.taken) == [firing(DECAY, DRIFT)]
    assert [line["rule"] for line in lines()] == [NAMES[DECAY], NAMES[DRIFT]]  # each once
    receiver.answers = list(failing)
    notify(engine, settings, window(6))
    assert notify(engine, settings, window(7)).lines == []
    assert told(receiver.taken)[1:] == [resolved(DECAY, DRIFT)]


def test_what_was_over_before_it_was_delivered_is_not_told(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    receiver.answers = [(404, {})] * TRIES
    notify(engine, settings, window(5, DECAY))
    assert len(notify(engine, settings, window(6)).lines) == 1
    notify(engine, settings, window(7))
    assert receiver.taken == []
    notify(engine, settings, window(8, DECAY))
    assert told(receiver.taken) == [firing(DECAY)]


def test_a_slow_receiver_is_given_up(
    engine: sa.Engine, settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
    receiver.block.clear()
    assert notify(engine, settings, window(5, DECAY)).undelivered == UNDELIVERED


@pytest.mark.parametrize("url", ["nothing://hooks.example/a-secret", "a-secret", "https:///x"])
def test_an_address_that_is_none(engine: sa.Engine, url: str) -> None:
    undelivered = notify(engine, Settings(alert_urls=url), window(5, DECAY)).undelivered
    assert undelivered == "ALERT_URLS holds what is no URL of a service that Apprise knows"


def test_every_service_is_told_and_a_setting_of_before_goes_on_working(
    engine: sa.Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK", f"{receiver.url}?key=a%20b")
    notify(engine, Settings(), window(5, DECAY))
    assert told(receiver.got) == [firing(DECAY)]
    assert receiver.paths == [f"{SECRET}?key=a+b"]
    two = f"{receiver.url}, {receiver.url.replace('http', 'json')}"
    notify(engine, Settings(alert_urls=two), window(6))
    assert told(receiver.got)[1:] == [resolved(DECAY)] * 2


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("mailto://user:pass@example.com", "E-Mail"),
        ("https://hooks.example/x", "JSON"),
    ],
)
def test_services_are_known_by_their_own_address(url: str, service: str) -> None:
    found = open_service(url, a_message(DECAY))
    assert found is not None
    assert found.service_name == service


def a_message(*found: Found) -> alerts.Message:
    summary = window(5, *found)
    return alerts.message(summary, list(alerts.changed({}, summary).values()))


def test_a_message_for_people_is_short() -> None:
    many: list[Found] = [("drift", str(number), "<" * 2000) for number in range(100)]
    message = a_message(DECAY, *many)
    assert message.title == "flights version 2: 101 firing, window 2013-04-01--2013-05-01"
    assert message.text.startswith(f"firing: decay: roc_auc: {DECAY[2]}\n")
    assert "and 81 more\nreport: " in message.text
    assert len(message.text) < 12_000


def test_the_url_is_never_shown(
    engine: sa.Engine,
    receiver: Receiver,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not by what is returned, nor by Apprise and urllib3, which log where they post to."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    caplog.set_level(logging.DEBUG)
    receiver.answers = [(503, {})] * TRIES
    said: list[object] = []
    for month, url in enumerate((receiver.url, f"http://user:pass@127.0.0.1:{port}{SECRET}"), 5):
        settings = Settings(alert_urls=url)
        delivery = notify(engine, settings, window(month, DECAY))
        assert delivery.undelivered == UNDELIVERED
        said += [delivery, settings]
    everything = "".join((*map(repr, said), caplog.text, *capfd.readouterr()))
    assert "secret" not in everything
    assert "pass@" not in everything


def test_json(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(5, DECAY))
    (body,) = receiver.got
    assert body["title"].startswith("flights version 2: 1 firing")
    assert DECAY[2] in body["message"]
    assert body["type"] == "warning"
    expected = {
        "schema_version": 1,
        "status": "firing",
        "model": "flights",
        "model_version": "2",
        "window": "2013-04-01--2013-05-01",
        "start": "2013-04-01T00:00:00+00:00",
        "end": "2013-05-01T00:00:00+00:00",
        "report": "reports/monitor/2013-04-01--2013-05-01/index.html",
        "alerts": [
            {
                "rule": "decay: roc_auc",
                "id": "decay.roc_auc",
                "column": None,
                "verdict": "decay",
                "status": "firing",
                "text": DECAY[2],
                "value": 0.645,
                "limit": 0.683,
                "since": "2013-05-01T00:00:00+00:00",
            }
        ],
    }
    assert {key: body[key] for key in expected} == expected
    (line,) = lines()
    assert line.pop("time")
    assert (
        line
        == {key: expected[key] for key in ("model", "model_version", "window")}
        | expected["alerts"][0]
    )


def test_a_file_that_cannot_be_written_is_told_later(engine: sa.Engine) -> None:
    Path("out").write_text("in the way", "utf-8")
    settings = Settings(alert_file="out/deep/alerts.jsonl")
    found = notify(engine, settings, window(5, DECAY, ODD))
    assert len(found.lines) == 2
    assert found.undelivered.startswith("out/deep/alerts.jsonl: ")
    Path("out").unlink()
    assert notify(engine, settings, window(5, DECAY, ODD)) == Delivery([])
    written = lines(settings.alert_file)
    assert [line["rule"] for line in written] == [NAMES[DECAY], NAMES[ODD]]
    assert written[1]["text"] == ODD[2]


@pytest.mark.parametrize("file", ["", "out/alerts.jsonl"])
def test_a_webhook_that_is_set_later_hears_of_what_is_open(
    engine: sa.Engine, receiver: Receiver, file: str
) -> None:
    assert len(notify(engine, Settings(alert_file=file), window(5, DECAY, DRIFT)).lines) == 2
    assert Path("out").exists() == bool(file)
    notify(engine, Settings(alert_file=file, alert_urls=receiver.url), window(6, DECAY))
    assert told(receiver.got) == [firing(DECAY)]


def test_of_two_at_once_one_tells(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    store(engine, window(5, DECAY))
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda _: alerts.notify(engine, settings, window(5, DECAY)), range(8))
        )
    assert sum(len(delivery.lines) for delivery in found) == 1
    assert told(receiver.got) == [firing(DECAY)]


def test_on_postgresql(settings: Settings, receiver: Receiver) -> None:
    with databases.postgres() as server:
        log = open_log(server.url)
        for month, alarms in enumerate([[DECAY], [DECAY, DRIFT], [], [DECAY]], 5):
            notify(log, settings, window(month, *alarms))
        log.dispose()
    assert told(receiver.got) == [
        firing(DECAY),
        firing(DRIFT),
        resolved(DECAY, DRIFT),
        firing(DECAY),
    ]


def test_a_database_that_cannot_be_used(engine: sa.Engine, settings: Settings) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alert_states (something TEXT)")
    with pytest.raises(Failure, match="the prediction log, see PREDICTION_LOG_URL"):
        notify(engine, settings, window(5, DECAY))
