"""Alerts: notify people of what `monitor` finds, once when it begins and once when it is over.

Apprise knows the services, by URL; a file gets every change as a line of JSON.
"""

import json
import logging
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from filelock import FileLock
from pydantic import JsonValue

from mlops_loop.base.settings import Settings
from mlops_loop.monitoring.window_store import in_log
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.prediction_log.window_summary import Alarm, Time, WindowSummary

if TYPE_CHECKING:
    from apprise import NotifyBase

FIRING = "firing"
RESOLVED = "resolved"
RETRIES = 3
PAUSE = 0.5  # seconds before each of them
TIMEOUT = 60.0  # seconds for all of them
LOGGERS = ("apprise", "urllib3.connectionpool")  # they log what is secret in a URL
LOCK_FILE = Path("build/alerts.lock")
ABOUT = {"model", "model_version", "window", "start", "end", "report"}  # what a message tells
METADATA = sa.MetaData()
ALERTS = sa.Table(
    "alert_states",  # the newest state of every rule that ever fired
    METADATA,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("rule", sa.String(500), primary_key=True),
    sa.Column("alert", sa.JSON, nullable=False),
)


class Alert(Alarm):
    """An alarm, from the window that opens it to the one that no longer has it."""

    status: str = FIRING
    since: Time  # end of its first window
    told: str = RESOLVED  # the status that the services heard of last

    @property
    def line(self) -> str:
        was = "" if self.status == FIRING else "before: "
        return f"{self.status}: {self.rule}: {was}{self.text}"

    @property
    def document(self) -> dict[str, JsonValue]:
        return self.model_dump(mode="json", exclude={"told"})


class Delivery(NamedTuple):
    """What to print, and what went wrong: the next run tells the services again."""

    lines: list[str]
    undelivered: str = ""


@in_log()
def notify(engine: sa.Engine, settings: Settings, summary: WindowSummary) -> Delivery:
    """Tell of the alarms that are new in this window, and of those that are over."""
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK_FILE):  # of two at once, one tells
        METADATA.create_all(engine)
        newest = sa.select(sa.func.max(WINDOWS.c.end)).where(WINDOWS.c.model == summary.model)
        known = sa.select(ALERTS.c.alert).where(ALERTS.c.model == summary.model)
        with engine.connect() as connection:
            newer = connection.scalar(newest)
            before = [Alert.model_validate(one) for one in connection.scalars(known)]
        if newer and summary.end < newer.replace(tzinfo=UTC):  # SQLite keeps no zone
            older = f"the window to {summary.end:%Y-%m-%d %H:%M} is older than the newest one"
            return Delivery([f"no alerts: {older}, to {newer:%Y-%m-%d %H:%M}"])
        alerts = updated(before, summary)
        firing = {alert.rule for alert in before if alert.status == FIRING}
        new = [alert for alert in alerts if (alert.status == FIRING) != (alert.rule in firing)]
        problems = append(settings.alert_file, summary, new)
        store(engine, summary.model, alerts)
        due = [alert for alert in alerts if alert.status != alert.told]
        if due and settings.alert_urls.get_secret_value():
            failed = [post(url, summary, due) for url in settings.alert_targets()]
            if not any(failed):
                told = [alert.model_copy(update={"told": alert.status}) for alert in alerts]
                store(engine, summary.model, told)
            problems += filter(None, failed)
    return Delivery([alert.line for alert in new], "; ".join(problems))


def updated(before: list[Alert], summary: WindowSummary) -> list[Alert]:
    """Return the alerts after a window that opens, continues or resolves some; firing first.

    What could not be judged stays as it was.
    """
    known = {alert.rule: alert for alert in before}
    after = []
    for alarm in summary.alarms:
        alert = Alert(**dict(alarm), since=summary.end)
        if old := known.pop(alarm.rule, None):
            since = old.since if old.status == FIRING else alert.since
            alert = alert.model_copy(update={"since": since, "told": old.told})
        after.append(alert)
    for old in known.values():
        skipped = any(f"{old.id}.".startswith(f"{family}.") for family in summary.not_judged)
        after.append(old if skipped else old.model_copy(update={"status": RESOLVED}))
    return sorted(after, key=lambda alert: alert.status)


def store(engine: sa.Engine, model: str, alerts: list[Alert]) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(ALERTS).where(ALERTS.c.model == model))
        for alert in alerts:
            row = {"model": model, "rule": alert.rule, "alert": alert.model_dump(mode="json")}
            connection.execute(sa.insert(ALERTS), row)


def payload(summary: WindowSummary, alerts: list[Alert]) -> dict[str, object]:
    """Return what a JSON webhook gets, beside title and text."""
    about = summary.model_dump(mode="json", include=ABOUT)
    told = [alert.document for alert in alerts]
    return {"schema_version": 1, "status": alerts[0].status, **about, "alerts": told}


def append(file: str, summary: WindowSummary, alerts: list[Alert]) -> list[str]:
    """Append a line for each alert to a file, if there is to be one; return why that failed."""
    if not file or not alerts:
        return []
    common = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    common |= summary.model_dump(include={"model", "model_version", "window"})
    lines = [json.dumps(common | alert.document, ensure_ascii=False) + "\n" for alert in alerts]
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with Path(file).open("a", encoding="utf-8") as opened:
            opened.writelines(lines)
    except OSError as error:
        return [f"{file}: {error.strerror or error}"]
    return []


def post(url: str, summary: WindowSummary, alerts: list[Alert]) -> str:
    """Send a message to a service; return why that failed. The URL in it is a secret."""
    from apprise import Apprise, NotifyFormat, NotifyType

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if (service := open_service(url, payload(summary, alerts))) is None:
        return "ALERT_URLS holds what is no URL of a service that Apprise knows"
    everything = Apprise(asset=service.asset)
    everything.add(service)
    counts = Counter(alert.status for alert in alerts)
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    title = f"{summary.model} version {summary.model_version}: {states}, window {summary.window}"
    text = "\n".join([*(alert.line for alert in alerts), f"report: {summary.report}"])
    kind = NotifyType.WARNING if FIRING in counts else NotifyType.SUCCESS
    if everything.notify(text, title, kind, body_format=NotifyFormat.TEXT):
        return ""
    host = f" at {service.host}" if service.host else ""
    return f"{service.service_name}{host} did not take the message"


def open_service(url: str, message: dict[str, object]) -> "NotifyBase | None":
    """Return the service of a URL; any other web address is a JSON webhook."""
    from apprise import Apprise, AppriseAsset
    from apprise.common import OverflowMode
    from apprise.plugins.custom_json import NotifyJSON

    asset = AppriseAsset(
        app_id="mlops-loop",
        default_service_retry=RETRIES,
        default_service_wait=PAUSE,
        service_timeout=TIMEOUT,
    )
    service = Apprise.instantiate(url, asset=asset)
    if service is None and url.startswith(("http://", "https://")):
        webhook = re.sub("[?&]", r"\g<0>-", url.replace("http", "json", 1))  # with its query
        service = Apprise.instantiate(webhook, asset=asset)
    if service:
        service.overflow_mode = OverflowMode.TRUNCATE  # services have limits
    if isinstance(service, NotifyJSON):
        service.redirects = False  # one would carry the message on, or answer for its receiver
        service.payload_extras |= message
    return service
