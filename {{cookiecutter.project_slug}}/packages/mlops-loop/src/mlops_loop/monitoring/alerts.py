"""Alerts: notify people of what `monitor` finds, once when it begins and once when it is over.

Apprise knows the services, by URL; a file gets every alert as a line of JSON.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import sqlalchemy as sa
from filelock import FileLock
from pydantic import BaseModel

from mlops_loop.base.settings import Settings
from mlops_loop.monitoring.window_store import in_log
from mlops_loop.prediction_log.tables import WINDOWS, lock_database
from mlops_loop.prediction_log.window_summary import Alarm, Time, WindowSummary

if TYPE_CHECKING:
    from apprise import NotifyBase

FIRING = "firing"
RESOLVED = "resolved"
RETRIES = 3
PAUSE = 0.5  # seconds before each of them
TIMEOUT = 60.0  # seconds for all of them
MAX_ALERTS = 20  # in a message for people: services have limits
MAX_TEXT = 500  # characters of each
LOGGERS = ("apprise", "urllib3.connectionpool")  # they log what is secret in a URL
INTERNAL = {"seen", "notified"}  # of an alert: no message tells it
LOCK_FILE = Path("build/alerts.lock")
METADATA = sa.MetaData()
ALERTS = sa.Table(
    "alert_states",  # the newest state of every rule that ever fired
    METADATA,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("rule", sa.String(500), primary_key=True),
    sa.Column("alert", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Delivery:
    """What to print, and which channels could not be reached: the next run notifies them."""

    lines: list[str] = field(default_factory=list)
    undelivered: str = ""


class Alert(Alarm):
    """An alarm, from the window that opens it to the one that no longer has it."""

    status: str = FIRING
    since: Time  # end of its first window
    seen: Time  # end of its last window
    notified: dict[str, str]  # by channel, the status that it was notified of last

    def is_due(self, channel: str) -> bool:
        """Return whether a channel must be notified; not of the end of what it never heard of."""
        before = self.notified.get(channel)
        return before != self.status and bool(before or self.status == FIRING)


class Message(BaseModel, frozen=True):
    """What a run tells; a JSON webhook gets all of it, beside title and text."""

    schema_version: int = 1
    status: str
    model: str
    model_version: str
    window: str
    start: Time
    end: Time
    report: str
    alerts: list[Alert]

    @property
    def title(self) -> str:
        """What the message is about, in one line."""
        states = [alert.status for alert in self.alerts]
        counts = [f"{states.count(each)} {each}" for each in (FIRING, RESOLVED) if each in states]
        about = f"{self.model} version {self.model_version}"
        return f"{about}: {', '.join(counts)}, window {self.window}"

    @property
    def text(self) -> str:
        lines = []
        for alert in self.alerts[:MAX_ALERTS]:
            was = "" if alert.status == FIRING else "before: "
            lines.append(f"{alert.status}: {alert.rule}: {was}{alert.text}"[:MAX_TEXT])
        if (more := len(self.alerts) - MAX_ALERTS) > 0:
            lines.append(f"and {more} more")
        return "\n".join([*lines, f"report: {self.report}"])


@in_log()
def notify(engine: sa.Engine, settings: Settings, summary: WindowSummary) -> Delivery:
    """Notify of the alarms that are new in this window, and of those that are over."""
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK_FILE):  # of two at once, one tells
        return record_and_send(engine, settings, summary)


def record_and_send(engine: sa.Engine, settings: Settings, summary: WindowSummary) -> Delivery:
    newest = sa.select(sa.func.max(WINDOWS.c.end)).where(WINDOWS.c.model == summary.model)
    with engine.begin() as connection:
        lock_database(connection)
        METADATA.create_all(connection)
        newer = connection.scalar(newest)
        if newer and summary.end < newer.replace(tzinfo=UTC):  # SQLite keeps no zone
            windows = f"the window to {summary.end:%Y-%m-%d %H:%M} is older than the newest one"
            return Delivery([f"no alerts: {windows}, to {newer:%Y-%m-%d %H:%M}"])
        query = sa.select(ALERTS.c.alert).where(ALERTS.c.model == summary.model)
        known = map(Alert.model_validate, connection.scalars(query))
        before = {alert.rule: alert for alert in known}
        changes = changed(before, summary)
        write(connection, summary.model, changes.values())
    after = before | changes
    used = {"webhook": settings.alert_urls.get_secret_value(), "file": settings.alert_file}
    problems = []
    for channel in [channel for channel, place in used.items() if place]:
        due = [alert for alert in after.values() if alert.is_due(channel)]
        if due and (problem := send(channel, settings, message(summary, due))):
            problems.append(problem)
        elif due:
            told = [
                alert.model_copy(update={"notified": alert.notified | {channel: alert.status}})
                for alert in due
            ]
            after |= {alert.rule: alert for alert in told}
            with engine.begin() as connection:
                write(connection, summary.model, told)
    states = {rule: alert.status for rule, alert in before.items()}
    new = [alert for rule, alert in changes.items() if alert.status != states.get(rule, RESOLVED)]
    return Delivery([line(alert) for alert in new], "; ".join(problems))


def changed(before: dict[str, Alert], summary: WindowSummary) -> dict[str, Alert]:
    """Return the alerts that a window opens, continues or resolves, as they are after it."""
    after = {}
    for alarm in summary.alarms:
        old = before.get(alarm.rule)
        since = old.since if old and old.status == FIRING else summary.end
        notified = old.notified if old else {}
        told = {"since": since, "seen": summary.end, "notified": notified}
        after[alarm.rule] = Alert.model_validate({**dict(alarm), **told})
    for rule, old in before.items():
        skipped = any(f"{old.id}.".startswith(f"{family}.") for family in summary.not_judged)
        if old.status == FIRING and rule not in after and not skipped:
            after[rule] = old.model_copy(update={"status": RESOLVED})
    return after


def write(connection: sa.Connection, model: str, alerts: Iterable[Alert]) -> None:
    for alert in alerts:
        mine = (ALERTS.c.model == model) & (ALERTS.c.rule == alert.rule)
        row = {"model": model, "rule": alert.rule, "alert": alert.model_dump(mode="json")}
        connection.execute(sa.delete(ALERTS).where(mine))
        connection.execute(sa.insert(ALERTS), row)


def line(alert: Alert) -> str:
    """Return an alert for the terminal."""
    if alert.status == FIRING:
        return f"alert: {alert.verdict}: {alert.text}"
    return f"resolved: {alert.rule}, which was last seen in the window to {alert.seen:%Y-%m-%d}"


def message(summary: WindowSummary, alerts: list[Alert]) -> Message:
    ordered = sorted(alerts, key=lambda alert: alert.status)  # firing first
    told = {"alerts": ordered, "status": ordered[0].status}
    return Message.model_validate({**dict(summary), "schema_version": 1, **told})


def send(channel: str, settings: Settings, message: Message) -> str:
    """Send a message to a channel; return why that failed, or nothing."""
    if channel == "file":
        return append_to_file(Path(settings.alert_file), message)
    found = [post(url, message) for url in settings.alert_targets()]
    return "; ".join(filter(None, found))


def append_to_file(path: Path, message: Message) -> str:
    """Append a line for each alert to a file; return why that failed, or nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    common = {"time": now, **message.model_dump(include={"model", "model_version", "window"})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            for alert in message.alerts:  # one write for each: others may append to it, too
                told = common | alert.model_dump(mode="json", exclude=INTERNAL)
                file.write(f"{json.dumps(told, ensure_ascii=False)}\n".encode())
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""


def post(url: str, message: Message) -> str:
    """Send a message to a service; return why that failed. The URL in it is a secret."""
    from apprise import Apprise, NotifyFormat, NotifyType

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if (service := open_service(url, message)) is None:
        return "ALERT_URLS holds what is no URL of a service that Apprise knows"
    everything = Apprise(asset=service.asset)
    everything.add(service)
    kind = NotifyType.WARNING if message.status == FIRING else NotifyType.SUCCESS
    if everything.notify(message.text, message.title, kind, body_format=NotifyFormat.TEXT):
        return ""
    host = f" at {service.host}" if service.host else ""
    return f"{service.service_name}{host} did not take the message"


def open_service(url: str, message: Message) -> "NotifyBase | None":
    """Return the service of a URL; any other web address is a JSON webhook."""
    from apprise import Apprise, AppriseAsset
    from apprise.plugins.custom_json import NotifyJSON

    asset = AppriseAsset(
        app_id="mlops-loop",
        default_service_retry=RETRIES,
        default_service_wait=PAUSE,
        service_timeout=TIMEOUT,
    )
    service = Apprise.instantiate(url, asset=asset)
    if service is None and url.startswith(("http://", "https://")):
        service = Apprise.instantiate(as_webhook(url), asset=asset)
    if isinstance(service, NotifyJSON):
        service.redirects = False  # one would carry the message on, or answer for its receiver
        service.payload_extras |= message.model_dump(
            mode="json", exclude={"alerts": {"__all__": INTERNAL}}
        )
    return service


def as_webhook(url: str) -> str:
    """Return Apprise's URL of a web address that takes JSON; its query goes with it."""
    parts = urlsplit(url)
    pairs = [(f"-{key}", value) for key, value in parse_qsl(parts.query)]
    query = urlencode(pairs, quote_via=quote)
    return urlunsplit(parts._replace(scheme=parts.scheme.replace("http", "json"), query=query))
