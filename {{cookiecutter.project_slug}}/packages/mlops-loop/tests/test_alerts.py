import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.monitoring import alert_state, alerts
from mlops_loop.monitoring.alerts import Delivery, Message, notify, open_service
from mlops_loop.monitoring.rules import Rule
from mlops_loop.prediction_log.connection import connect, open_log
from mlops_loop.prediction_log.window_summary import WindowSummary

from . import databases

SECRET = "/services/a-secret"
TRIES = alerts.RETRIES + 1
UNDELIVERED = "JSON at 127.0.0.1 did not take the message"
DECAY = "decay: roc_auc", "roc_auc 0.645 (0.637 to 0.653); on the test window it was 0.712"
NULLS = (
    "quality: nulls in temperature",
    "17.0% of temperature are missing, in what was learned 1.0%",
)
DRIFT = (
    "drift: temperature",
    "temperature is 1.21 from the reference; windows of it are within 0.62",
)


class Receiver(ThreadingHTTPServer):
    """Answers each POST as it is told to, then with 200; `block` lets it wait before it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.paths: list[str] = []
        self.got: list[Any] = []  # the bodies of all requests
        self.taken: list[Any] = []  # of those that were answered with 200
        self.came, self.block = threading.Event(), threading.Event()
        self.block.set()
        self.url = f"http://127.0.0.1:{self.server_port}{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(body)
        self.server.paths.append(self.path)
        self.server.came.set()
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


def rule_named(name: str) -> Rule:
    verdict, _, subject = name.partition(": ")
    kind, _, column = subject.partition(" in ")
    if verdict == "drift":
        return Rule("drift", subject)
    return Rule(f"{verdict}.{kind}", column or None)


def window(month: int, *alarms: tuple[str, str], **changes: Any) -> WindowSummary:
    """What the monitor found in the month that ends at the beginning of this one."""
    name = f"2013-{month - 1:02}-01--2013-{month:02}-01"
    facts: dict[str, Any] = {
        "model": "flights",
        "model_version": "2",
        "window": name,
        "start": datetime(2013, month - 1, 1, tzinfo=UTC),
        "end": datetime(2013, month, 1, tzinfo=UTC),
        "alarms": [rule_named(rule).alarm(0.645, 0.683, text) for rule, text in alarms],
        "report": f"reports/monitor/{name}/report.html",
    }
    return WindowSummary(**facts | changes)


def told(messages: list[Any]) -> list[list[tuple[str, str]]]:
    """Status and rule of the alerts in each message."""
    return [
        [(alert["status"], alert["rule"]) for alert in message["alerts"]] for message in messages
    ]


def lines(file: str = "out/alerts.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def stored(engine: sa.Engine) -> dict[str, dict[str, Any]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(alert_state.ALERTS)).mappings().all()
    return {Rule.from_key(row["rule"]).name: dict(row) for row in rows}


def many(url: sa.URL, settings: Settings, found: WindowSummary) -> list[int]:
    """Tell of the same window eight times at once; return how many lines each has to print."""

    def run(_: int) -> int:
        own = connect(url.render_as_string(hide_password=False))
        try:
            return len(notify(own, settings, found).lines)
        finally:
            own.dispose()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, range(8)))


def test_a_quiet_window_is_no_news(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    assert notify(engine, settings, window(5)) == Delivery([], "")
    assert receiver.got == []
    assert not Path("out").exists()


def test_told_once_when_it_begins_and_once_when_it_is_over(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    assert notify(engine, settings, window(5, DECAY)) == Delivery([f"alert: decay: {DECAY[1]}"])
    assert notify(engine, settings, window(5, DECAY)) == Delivery([])  # the same window again
    assert notify(engine, settings, window(6, (DECAY[0], "roc_auc 0.6"))) == Delivery([])
    alert = stored(engine)[DECAY[0]]
    assert alert["text"] == "roc_auc 0.6"
    assert [alert[name].month for name in ("opened", "seen")] == [5, 6]
    ended = "resolved: decay: roc_auc, which was last seen in the window to 2013-06-01"
    assert notify(engine, settings, window(7)) == Delivery([ended])
    assert notify(engine, settings, window(7)) == Delivery([])
    assert notify(engine, settings, window(8)) == Delivery([])
    assert notify(engine, settings, window(9, DECAY)).lines == [f"alert: decay: {DECAY[1]}"]
    assert stored(engine)[DECAY[0]]["opened"].month == 9
    assert told(receiver.got) == [
        [("firing", DECAY[0])],
        [("resolved", DECAY[0])],
        [("firing", DECAY[0])],
    ]
    assert [line["status"] for line in lines()] == ["firing", "resolved", "firing"]


def test_one_message_for_a_run(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(5, DECAY))
    assert len(notify(engine, settings, window(6, DRIFT)).lines) == 2
    assert told(receiver.got)[1:] == [[("firing", DRIFT[0]), ("resolved", DECAY[0])]]
    assert [message["status"] for message in receiver.got] == ["firing", "firing"]
    notify(engine, settings, window(7))
    assert receiver.got[-1]["status"] == "resolved"


def test_the_same_window_again_without_the_alarm_resolves_it(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    notify(engine, settings, window(5, DECAY))
    notify(engine, settings, window(5))
    assert told(receiver.got) == [[("firing", DECAY[0])], [("resolved", DECAY[0])]]


@pytest.mark.parametrize(
    ("alarm", "key"), [(DECAY, "decay"), (DECAY, "decay.roc_auc"), (NULLS, "quality.nulls")]
)
def test_what_could_not_be_judged_stays_open(
    engine: sa.Engine, settings: Settings, receiver: Receiver, alarm: tuple[str, str], key: str
) -> None:
    notify(engine, settings, window(5, alarm))
    assert notify(engine, settings, window(6, not_judged={key: "too few"})).lines == []
    assert notify(engine, settings, window(7, alarm)).lines == []
    others = {"deca": "", "decay.roc": "", "quality.volume": "", "quality.null": ""}
    assert len(notify(engine, settings, window(8, not_judged=others)).lines) == 1
    assert told(receiver.got) == [[("firing", alarm[0])], [("resolved", alarm[0])]]


def test_a_look_back_is_no_news(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(7, DECAY))
    for old in (window(6, DRIFT, DECAY), window(6)):
        (line,) = notify(engine, settings, old).lines
        assert line.startswith("no alerts: the window to 2013-06-01 00:00 is older than")
    assert list(stored(engine)) == [DECAY[0]]
    assert len(receiver.got) == 1
    notify(engine, settings, window(8))
    (line,) = notify(
        engine, settings, window(7, DECAY)
    ).lines  # a window without alarms is newer, too
    assert line.startswith("no alerts")


def test_models_do_not_mix(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(7, DECAY))
    assert notify(engine, settings, window(6, model="another")).lines == []
    assert len(notify(engine, settings, window(6, DECAY, model="another")).lines) == 1
    assert [message["model"] for message in receiver.got] == ["flights", "another"]


def test_retried(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (500, {}), (429, {})]
    assert notify(engine, settings, window(5, DECAY)).undelivered == ""
    assert len(receiver.got) == TRIES
    assert len(receiver.taken) == 1


@pytest.mark.parametrize("status", [503, 404, 302])
def test_what_could_not_be_delivered_is_told_by_the_next_run(
    engine: sa.Engine, settings: Settings, receiver: Receiver, status: int
) -> None:
    receiver.answers = [(status, {"Location": f"{receiver.url}/elsewhere"})] * TRIES
    first = notify(engine, settings, window(5, DECAY))
    assert first == Delivery([f"alert: decay: {DECAY[1]}"], UNDELIVERED)
    assert len(receiver.got) == TRIES
    assert receiver.taken == []
    assert notify(engine, settings, window(5, DECAY, DRIFT)).undelivered == ""
    assert told(receiver.taken) == [[("firing", DECAY[0]), ("firing", DRIFT[0])]]
    assert [line["rule"] for line in lines()] == [DECAY[0], DRIFT[0]]  # the file had been told


def test_what_was_over_before_it_was_delivered_is_not_told(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    receiver.answers = [(404, {})] * TRIES
    notify(engine, settings, window(5, DECAY))
    assert len(notify(engine, settings, window(6)).lines) == 1
    notify(engine, settings, window(7))
    assert receiver.taken == []
    notify(engine, settings, window(8, DECAY))
    assert told(receiver.taken) == [[("firing", DECAY[0])]]


def test_an_end_that_could_not_be_delivered_is_told_later(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    notify(engine, settings, window(5, DECAY))
    receiver.answers = [(404, {})] * TRIES
    notify(engine, settings, window(6))
    assert notify(engine, settings, window(7)).lines == []
    assert told(receiver.taken) == [[("firing", DECAY[0])], [("resolved", DECAY[0])]]


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
    assert told(receiver.got) == [[("firing", DECAY[0])]]
    assert receiver.paths == [f"{SECRET}?key=a+b"]
    two = f"{receiver.url}, {receiver.url.replace('http', 'json')}"
    notify(engine, Settings(alert_urls=two), window(6))
    assert told(receiver.got)[1:] == [[("resolved", DECAY[0])]] * 2


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "Discord"),
        ("mailto://user:pass@example.com", "E-Mail"),
        ("https://hooks.example/x", "JSON"),
    ],
)
def test_services_are_known_by_their_own_address(url: str, service: str) -> None:
    found = open_service(url, a_message())
    assert found is not None
    assert found.service_name == service


def a_message(*more: tuple[str, str]) -> Message:
    alarms = [rule_named(rule).alarm(1, 2, text) for rule, text in (DECAY, *more)]
    found = window(5, *[(alarm.rule, alarm.text) for alarm in alarms])
    after = alert_state.changed({}, found)
    return alerts.message(found, list(after.values()))


def test_a_message_for_people_is_short() -> None:
    many = [(f"drift: {number}", "<" * 2000) for number in range(100)]
    message = a_message(*many)
    assert message.title == "flights version 2: 101 firing, window 2013-04-01--2013-05-01"
    assert message.text.startswith(f"firing: {DECAY[0]}: {DECAY[1]}\n")
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
    said = []
    for month, url in enumerate((receiver.url, f"http://user:pass@127.0.0.1:{port}{SECRET}"), 5):
        settings = Settings(alert_urls=url)
        said.append(notify(engine, settings, window(month, DECAY)))
        said.append(settings)
    assert said[2].undelivered == UNDELIVERED
    everything = "".join((*map(repr, said), caplog.text, *capfd.readouterr()))
    assert "secret" not in everything
    assert "pass@" not in everything


def test_json(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    notify(engine, settings, window(5, DECAY))
    (body,) = receiver.got
    assert body["title"].startswith("flights version 2: 1 firing")
    assert DECAY[1] in body["message"]
    assert body["type"] == "warning"
    expected = [
        {
            "schema_version": 1,
            "status": "firing",
            "model": "flights",
            "model_version": "2",
            "window": "2013-04-01--2013-05-01",
            "start": "2013-04-01T00:00:00+00:00",
            "end": "2013-05-01T00:00:00+00:00",
            "report": "reports/monitor/2013-04-01--2013-05-01/report.html",
            "alerts": [
                {
                    "rule": DECAY[0],
                    "id": "decay.roc_auc",
                    "column": None,
                    "verdict": "decay",
                    "status": "firing",
                    "text": DECAY[1],
                    "value": 0.645,
                    "limit": 0.683,
                    "since": "2013-05-01T00:00:00+00:00",
                }
            ],
        }
    ]
    assert [{key: body[key] for key in expected[0]}] == expected


ODD = "quality: unseen in <!channel>", "a & b < *c* [d](https://e.example) \u2192 \u00e4"


def test_file(engine: sa.Engine) -> None:
    settings = Settings(alert_file="out/deep/alerts.jsonl")
    notify(engine, settings, window(5, DECAY, ODD))
    notify(engine, settings, window(6, DECAY))
    found = lines(settings.alert_file)
    expected = [("firing", DECAY[0]), ("firing", ODD[0]), ("resolved", ODD[0])]
    assert [(line["status"], line["rule"]) for line in found] == expected
    assert found[1]["text"] == ODD[1]
    assert {"time", "model", "model_version", "window", "verdict", "value", "limit"} <= set(
        found[0]
    )


def test_a_file_that_cannot_be_written_is_told_later(engine: sa.Engine) -> None:
    Path("out").write_text("in the way", "utf-8")
    settings = Settings(alert_file="out/alerts.jsonl")
    told = notify(engine, settings, window(5, DECAY))
    assert len(told.lines) == 1
    assert told.undelivered.startswith("out/alerts.jsonl: ")
    Path("out").unlink()
    assert notify(engine, settings, window(5, DECAY)) == Delivery([])
    assert [line["rule"] for line in lines()] == [DECAY[0]]


@pytest.mark.parametrize("file", ["", "out/alerts.jsonl"])
def test_a_webhook_that_is_set_later_hears_of_what_is_open(
    engine: sa.Engine, receiver: Receiver, file: str
) -> None:
    assert len(notify(engine, Settings(alert_file=file), window(5, DECAY, DRIFT)).lines) == 2
    assert Path("out").exists() == bool(file)
    notify(engine, Settings(alert_file=file, alert_urls=receiver.url), window(6, DECAY))
    assert told(receiver.got) == [[("firing", DECAY[0])]]


def test_two_at_once_tell_once(engine: sa.Engine, settings: Settings, receiver: Receiver) -> None:
    """The second comes while the first still talks, and again many at the same time."""
    receiver.block.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(notify, engine, settings, window(5, DECAY))
        assert receiver.came.wait(60)
        assert notify(engine, settings, window(5, DECAY)) == Delivery([])
        receiver.block.set()
        assert len(first.result().lines) == 1

    assert sum(many(engine.url, settings, window(6, DECAY, DRIFT))) == 1
    assert told(receiver.got) == [[("firing", DECAY[0])], [("firing", DRIFT[0])]]
    assert [line["rule"] for line in lines()] == [DECAY[0], DRIFT[0]]


def test_on_postgresql(settings: Settings, receiver: Receiver) -> None:
    months = [DECAY], [DECAY, DRIFT], [], [DECAY]
    with databases.postgres() as server:
        open_log(server.url).dispose()
        url = sa.make_url(server.url)
        found = [
            many(url, settings, window(month, *alarms)) for month, alarms in enumerate(months, 5)
        ]
    assert [sum(counts) for counts in found] == [1, 1, 2, 1]
    both = {("resolved", DECAY[0]), ("resolved", DRIFT[0])}
    first, second, third, fourth = told(receiver.got)
    assert (first, second, set(third)) == ([("firing", DECAY[0])], [("firing", DRIFT[0])], both)
    assert fourth == first


def test_what_changes_while_it_is_told_is_told_next(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    receiver.block.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(notify, engine, settings, window(5, DECAY))
        assert receiver.came.wait(60)
        assert (
            len(notify(engine, settings, window(6)).lines) == 1
        )  # over, but nobody heard of it yet
        receiver.block.set()
        first.result()
    notify(engine, settings, window(7))
    assert told(receiver.got) == [[("firing", DECAY[0])], [("resolved", DECAY[0])]]


def test_one_that_took_too_long_leaves_it_to_the_one_that_took_over(
    engine: sa.Engine, settings: Settings, receiver: Receiver
) -> None:
    receiver.block.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(notify, engine, settings, window(5, DECAY))
        assert receiver.came.wait(60)
        now = datetime.now(UTC)
        with engine.begin() as connection:
            connection.execute(sa.update(alert_state.ALERTS).values(claimed=now))
        receiver.block.set()
        first.result()
    alert = stored(engine)[DECAY[0]]
    assert (alert_state.utc(alert["claimed"]), alert["webhook"]) == (now, "")


def test_one_that_dies_while_it_tells_is_followed_by_another(
    engine: sa.Engine, settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.block.clear()
    code = f"""if True:
        import sys
        from mlops_loop.monitoring.alerts import notify
        from mlops_loop.prediction_log.connection import open_log
        from mlops_loop.base.settings import Settings
        from mlops_loop.prediction_log.window_summary import WindowSummary
        settings = Settings(alert_urls={receiver.url!r}, alert_file="out/alerts.jsonl")
        summary = WindowSummary.model_validate_json(sys.stdin.read())
        notify(open_log("sqlite:///predictions.db"), settings, summary)
    """
    dying = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert dying.stdin
    dying.stdin.write(window(5, DECAY).model_dump_json().encode())
    dying.stdin.close()
    assert receiver.came.wait(60)
    dying.kill()
    dying.wait()
    receiver.block.set()
    before = len(receiver.got)
    notify(engine, settings, window(5, DECAY))
    assert len(receiver.got) == before  # it may still be talking
    monkeypatch.setattr(alert_state, "CLAIM", timedelta(0))
    notify(engine, settings, window(5, DECAY))
    assert told(receiver.got[before:]) == [[("firing", DECAY[0])]]


def test_a_database_that_cannot_be_used(engine: sa.Engine, settings: Settings) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alerts (something TEXT)")
    with pytest.raises(Failure, match="the prediction log, see PREDICTION_LOG_URL"):
        notify(engine, settings, window(5, DECAY))
