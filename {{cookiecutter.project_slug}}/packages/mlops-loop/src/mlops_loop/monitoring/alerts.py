"""Alerts: notify people of what `monitor` finds, once when it begins and once when it is over.

Apprise knows the services, by URL; a file gets every alert as a line of JSON.
"""

import json
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.settings import Settings
from mlops_loop.monitoring.alert_state import (
    CHANNELS,
    FIRING,
    RESOLVED,
    Alert,
    confirm,
    due,
    record,
)
from mlops_loop.monitoring.rules import Rule
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.window_summary import Number, Time, WindowSummary

if TYPE_CHECKING:
    from apprise import NotifyBase

RETRIES = 3
PAUSE = 0.5  # seconds before each of them
TIMEOUT = 60.0  # seconds for all of them
MAX_ALERTS = 20  # in a message for people: services have limits
MAX_TEXT = 500  # characters of each
LOGGERS = ("apprise", "urllib3.connectionpool")  # they log what is secret in a URL


@dataclass(frozen=True)
class Delivery:
    """What to print, and which channels could not be reached: the next run notifies them."""

    lines: list[str] = field(default_factory=list)
    undelivered: str = ""


class AlertMessage(BaseModel, frozen=True):
    rule: str
    id: str
    column: str | None
    verdict: str
    status: str
    text: str
    value: Number
    limit: Number
    since: Time


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
    alerts: list[AlertMessage]

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


def notify(engine: sa.Engine, settings: Settings, summary: WindowSummary) -> Delivery:
    """Notify of the alarms that are new in this window, and of those that are over.

    Raises Failure only if the database cannot be used.
    """
    delivered: list[str] = []
    problems: list[str] = []
    try:
        changes = record(engine, settings, summary)
        try:
            for channel in CHANNELS:
                alerts = [alert for alert in changes.claimed if channel in due(alert, settings)]
                if not alerts:
                    continue
                if problem := send(channel, settings, message(summary, alerts)):
                    problems.append(problem)
                else:
                    delivered.append(channel)
        finally:
            if changes.claimed:
                confirm(engine, summary.model, changes.claimed, delivered)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    if changes.newer:
        windows = f"the window to {summary.end:%Y-%m-%d %H:%M} is older than the newest one"
        return Delivery([f"no alerts: {windows}, to {changes.newer:%Y-%m-%d %H:%M}"])
    return Delivery([line(alert) for alert in changes.new], "; ".join(problems))


def line(alert: Alert) -> str:
    """Return an alert for the terminal."""
    if alert.state == FIRING:
        return f"alert: {alert.verdict}: {alert.text}"
    return f"resolved: {alert.name}, which was last seen in the window to {alert.seen:%Y-%m-%d}"


def message(summary: WindowSummary, alerts: list[Alert]) -> Message:
    ordered = sorted(alerts, key=lambda alert: alert.state)  # firing first
    return Message(
        status=ordered[0].state,
        model=summary.model,
        model_version=summary.model_version,
        window=summary.window,
        start=summary.start,
        end=summary.end,
        report=summary.report,
        alerts=[alert_message(alert) for alert in ordered],
    )


def alert_message(alert: Alert) -> AlertMessage:
    rule = Rule.from_key(alert.rule)
    return AlertMessage(
        rule=rule.name,
        id=rule.id,
        column=rule.column,
        verdict=alert.verdict,
        status=alert.state,
        text=alert.text,
        value=alert.value,
        limit=alert.limit,
        since=alert.opened,
    )


def send(channel: str, settings: Settings, message: Message) -> str:
    """Send a message to a channel; return why that failed, or nothing."""
    if channel == "file":
        return append_to_file(Path(settings.alert_file), message)
    found = [post(url, message) for url in settings.alert_targets()]
    return "; ".join(filter(None, found))


def append_to_file(path: Path, message: Message) -> str:
    """Append a line for each alert to a file; return why that failed, or nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = message.model_dump(mode="json")
    common = {key: document[key] for key in ("model", "model_version", "window")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            for alert in document["alerts"]:  # one write for each: others may append to it, too
                text = json.dumps({"time": now, **common, **alert}, ensure_ascii=False)
                os.write(file, f"{text}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""


def post(url: str, message: Message) -> str:
    """Send a message to a service, with retries; return why that failed, or nothing.

    The URL is a secret: the reason names service and host alone.
    """
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
        service.payload_extras |= message.model_dump(mode="json")
    return service


def as_webhook(url: str) -> str:
    """Return Apprise's URL of a web address that takes JSON; its query goes with it."""
    parts = urlsplit(url)
    pairs = [(f"-{key}", value) for key, value in parse_qsl(parts.query)]
    query = urlencode(pairs, quote_via=quote)
    return urlunsplit(parts._replace(scheme=parts.scheme.replace("http", "json"), query=query))
