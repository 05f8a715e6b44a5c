"""Alerts: tell people what `monitor` found, once when it begins and once when it is over."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import sqlalchemy as sa
from requests.adapters import HTTPAdapter
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.tables import lock_database

FIRING, RESOLVED = "firing", "resolved"
TABLES = sa.MetaData()
ALERTS = sa.Table(
    "alerts",  # the newest state of every rule that ever fired
    TABLES,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("rule", sa.String(500), primary_key=True),
    sa.Column("verdict", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened", sa.DateTime(timezone=True), nullable=False),  # UTC, end of its first window
    sa.Column(
        "seen", sa.DateTime(timezone=True), nullable=False
    ),  # UTC, end of the last window it was in
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("limit", sa.Float),
    sa.Column(
        "webhook", sa.String(16), nullable=False
    ),  # the state that was told there last, or nothing
    sa.Column("file", sa.String(16), nullable=False),
    sa.Column("claimed", sa.DateTime(timezone=True)),  # UTC, when a process began to tell it
)
NEWEST = sa.Table(
    "alerts_newest",  # the end of the newest window that was told of
    TABLES,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("end", sa.DateTime(timezone=True), nullable=False),  # UTC
)
CHANNELS = "webhook", "file"
CLAIM = timedelta(minutes=10)  # after which a process that said it would tell must have died
TIMEOUT = 5.0, 10.0  # seconds to connect, and to wait for an answer
TRIES, PAUSE, PATIENCE = 4, 0.5, 20  # of a message; seconds between them; of Retry-After at most
AGAIN = 429, 500, 502, 503, 504
LOUD = "urllib3.connectionpool", "urllib3.util.retry"  # they log the path of the URL
MANY, LONG = (
    20,
    500,
)  # alerts in a message for people, and letters of each: Slack and Teams have limits


class Told(NamedTuple):
    """What to print, and which channels could not be reached: they are told by the next run."""

    lines: list[str]
    undelivered: str = ""


def tell(engine: sa.Engine, settings: Settings, summary: Mapping[str, Any]) -> Told:
    """Tell of the alarms that are new in this window, and of those that are over.

    Raises Failure only if the database cannot be used.
    """
    try:
        lines, events = record(engine, settings, summary)
        delivered, problems = list[str](), list[str]()
        try:
            for channel in CHANNELS:
                alerts = [alert for alert in events if channel in due(alert, settings)]
                if alerts and (problem := deliver(channel, settings, document(summary, alerts))):
                    problems.append(problem)
                elif alerts:
                    delivered.append(channel)
        finally:
            if events:
                confirm(engine, summary["model"], events, delivered)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    return Told(lines, "; ".join(problems))


def moment(value: str | datetime) -> datetime:
    """Return a time with its zone, which SQLite forgets and JSON spells out."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def record(
    engine: sa.Engine, settings: Settings, summary: Mapping[str, Any]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Keep what this window changes; return the lines to print, and the alerts to tell of."""
    model, end, now = summary["model"], moment(summary["end"]), datetime.now(UTC)
    mine = ALERTS.c.model == model
    with engine.begin() as connection:
        lock_database(connection)
        TABLES.create_all(connection)
        newest = connection.scalar(sa.select(NEWEST.c.end).where(NEWEST.c.model == model))
        if newest and end < moment(newest):
            return [look_back(end, moment(newest))], []
        connection.execute(sa.delete(NEWEST).where(NEWEST.c.model == model))
        connection.execute(sa.insert(NEWEST), {"model": model, "end": end})
        rows = connection.execute(sa.select(ALERTS).where(mine)).mappings()
        known = {row["rule"]: dict(row) for row in rows}
        after = changed(known, summary)
        alerts = known | after
        events = [
            alert for alert in alerts.values() if is_free(alert, now) and due(alert, settings)
        ]
        for alert in events:
            after[alert["rule"]] = alert
            alert["claimed"] = now
        connection.execute(sa.delete(ALERTS).where(mine & ALERTS.c.rule.in_(list(after))))
        if after:
            connection.execute(sa.insert(ALERTS), list(after.values()))
    new = [
        a
        for rule, a in after.items()
        if a["state"] != known.get(rule, {"state": RESOLVED})["state"]
    ]
    return [line(alert) for alert in new], events


def changed(known: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the alerts that a window opens, goes on with or resolves, as they are after it."""
    end, after = moment(summary["end"]), dict[str, dict[str, Any]]()
    for alarm in summary["alarms"]:
        before = known.get(
            alarm["rule"], {"state": RESOLVED, "claimed": None, "webhook": "", "file": ""}
        )
        opened = before["opened"] if before["state"] == FIRING else end
        facts = {key: alarm[key] for key in ("rule", "verdict", "text", "value", "limit")}
        kept = {key: before[key] for key in ("claimed", *CHANNELS)}
        facts |= {"model": summary["model"], "state": FIRING, "opened": opened, "seen": end}
        after[alarm["rule"]] = facts | kept
    for rule, before in known.items():
        if (
            before["state"] == FIRING
            and rule not in after
            and is_judged(rule, summary["not_judged"])
        ):
            after[rule] = before | {"state": RESOLVED}
    return after


def is_judged(rule: str, not_judged: Mapping[str, str]) -> bool:
    """Return whether a rule was judged: neither it nor its family is among those that were not."""
    return not any(rule == key or rule.startswith((f"{key}:", f"{key} in ")) for key in not_judged)


def is_due(alert: Mapping[str, Any], channel: str) -> bool:
    """Return whether a channel must be told; not of the end of what it never heard of."""
    told, state = alert[channel], alert["state"]
    return bool(told != state and (told or state == FIRING))


def due(alert: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return the channels in use that must be told of an alert."""
    used = {"webhook": settings.alert_webhook.get_secret_value(), "file": settings.alert_file}
    return [channel for channel in CHANNELS if used[channel] and is_due(alert, channel)]


def is_free(alert: Mapping[str, Any], now: datetime) -> bool:
    """Return whether no other process is telling of an alert at this time."""
    return not alert["claimed"] or moment(alert["claimed"]) <= now - CLAIM


def confirm(
    engine: sa.Engine, model: str, events: list[dict[str, Any]], delivered: list[str]
) -> None:
    """Keep what was told, and let go of the rest for the next run."""
    with engine.begin() as connection:
        lock_database(connection)
        for alert in events:
            told = {channel: alert["state"] for channel in delivered if is_due(alert, channel)}
            claim = (ALERTS.c.rule == alert["rule"]) & (ALERTS.c.claimed == alert["claimed"])
            values = {"claimed": None, **told}
            connection.execute(
                sa.update(ALERTS).where(claim, ALERTS.c.model == model).values(values)
            )


def line(alert: Mapping[str, Any]) -> str:
    """Return an alert for the terminal."""
    if alert["state"] == FIRING:
        return f"alert: {alert['verdict']}: {alert['text']}"
    return f"resolved: {alert['rule']}, which was last seen in the window to {moment(alert['seen']):%Y-%m-%d}"


def look_back(end: datetime, newest: datetime) -> str:
    when = f"the window to {end:%Y-%m-%d %H:%M} is older than the newest one, to {newest:%Y-%m-%d %H:%M}"
    return f"nobody is told: {when}"


def deliver(channel: str, settings: Settings, document: Mapping[str, Any]) -> str:
    """Tell one channel; return why it could not be told, or nothing."""
    if channel == "file":
        return write(Path(settings.alert_file), document)
    body = FORMATS[settings.alert_format](document)
    return post(settings.alert_webhook.get_secret_value().strip(), body)


def document(summary: Mapping[str, Any], alerts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what there is to tell; it is what is posted as `json`."""
    told = [
        {
            "rule": alert["rule"],
            "verdict": alert["verdict"],
            "status": alert["state"],
            "text": alert["text"],
            "value": alert["value"],
            "limit": alert["limit"],
            "since": moment(alert["opened"]).isoformat(timespec="seconds"),
        }
        for alert in sorted(alerts, key=lambda alert: str(alert["state"]))  # firing first
    ]
    common = {
        key: summary[key] for key in ("model", "model_version", "window", "start", "end", "report")
    }
    return {"schema_version": 1, "status": told[0]["status"], **common, "alerts": told}


def write(path: Path, document: Mapping[str, Any]) -> str:
    """Append a line for each alert to a file; return why it could not be done, or nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
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


def title(document: Mapping[str, Any]) -> str:
    """Return what a message is about, in one line."""
    states = [alert["status"] for alert in document["alerts"]]
    counts = [f"{states.count(state)} {state}" for state in (FIRING, RESOLVED) if state in states]
    name = f"{document['model']} version {document['model_version']}"
    return f"{name}: {', '.join(counts)}, window {document['window']}"


def shown(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield status, heading and text of the alerts for people, not more than fit a message."""
    for alert in document["alerts"][:MANY]:
        ended = "" if alert["status"] == FIRING else "before: "
        yield (
            alert["status"],
            f"{alert['status']}: {alert['rule']}"[:LONG],
            f"{ended}{alert['text']}"[:LONG],
        )
    if (more := len(document["alerts"]) - MANY) > 0:
        yield FIRING, f"and {more} more", "see the report"


def slack(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message for an incoming webhook of Slack's."""

    def mrkdwn(text: str) -> dict[str, Any]:
        return {"type": "mrkdwn", "text": text, "verbatim": True}  # no name in it becomes a mention

    about, blocks = escaped(title(document)), list[dict[str, Any]]()
    for status, heading, text in shown(document):
        sign = ":red_circle:" if status == FIRING else ":large_green_circle:"
        blocks.append(
            {"type": "section", "text": mrkdwn(f"{sign} {escaped(heading)}\n{escaped(text)}")}
        )
    first = {"type": "section", "text": mrkdwn(f"*{about}*")}
    last = {"type": "context", "elements": [mrkdwn(escaped(f"report: {document['report']}"))]}
    return {"text": about, "blocks": [first, *blocks, last]}


def escaped(text: str) -> str:
    """Return a text of which Slack reads nothing as a command; <!channel> would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def teams(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an Adaptive Card for a webhook of the Workflows app in Teams."""

    def block(text: str, **look: Any) -> dict[str, Any]:
        # Not a TextBlock, which would read the names of columns as Markdown.
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **look}]}

    body = [block(title(document), weight="Bolder", size="Medium")]
    for status, heading, text in shown(document):
        colour = "Attention" if status == FIRING else "Good"
        body += [block(heading, weight="Bolder", color=colour), block(text)]
    body.append(block(f"report: {document['report']}", isSubtle=True))
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "fallbackText": title(document),
        "body": body,
        "msteams": {"width": "full"},
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {
        "type": "message",
        "attachments": [{"contentType": kind, "contentUrl": None, "content": card}],
    }


FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "json": dict,
    "slack": slack,
    "teams": teams,
}


def post(url: str, body: Mapping[str, Any]) -> str:
    """Post a message; return why it could not be delivered, or nothing.

    The URL is a secret: what is said names the host alone.
    """
    try:
        parts = urlsplit(url)
        host, known = parts.hostname, parts.scheme in ("https", "http")
    except ValueError:
        host, known = None, False
    if not host or not known:
        return "ALERT_WEBHOOK is not a URL that begins with https:// or http://"
    retry = Retry(
        total=TRIES - 1,
        allowed_methods=None,  # POST, too: better twice than never
        status_forcelist=AGAIN,
        backoff_factor=PAUSE,
        retry_after_max=PATIENCE,
        raise_on_status=False,
    )
    data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with quiet(), requests.Session() as session:
            session.mount(f"{parts.scheme}://", HTTPAdapter(max_retries=retry))
            # Streamed, as nobody reads the answer; a redirect would carry the message elsewhere.
            with session.post(
                url, data=data, headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
    except (requests.RequestException, HTTPError, ValueError) as error:
        cause = getattr(error.args[0] if error.args else None, "reason", None) or error
        return f"{host} cannot be reached ({type(cause).__name__})"  # not its text, which has the URL in it
    return "" if 200 <= status < 300 else f"{host} answered {status}"


@contextmanager
def quiet() -> Iterator[None]:
    """Let urllib3 log nothing: it would say where it posts to."""
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state
