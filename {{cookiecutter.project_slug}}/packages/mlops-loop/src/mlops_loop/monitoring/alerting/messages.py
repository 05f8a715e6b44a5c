"""Messages: alerts as text for the terminal, as JSON, and as Slack and Teams take them."""

from collections.abc import Callable, Iterator
from datetime import datetime

from pydantic import BaseModel, JsonValue

from mlops_loop.monitoring.alerting.alert_state import FIRING, RESOLVED, Alert
from mlops_loop.monitoring.rules import Rule
from mlops_loop.prediction_log.window_summary import Number, Time, WindowSummary

MAX_ALERTS = 20  # in a message for people: Slack and Teams have limits
MAX_TEXT = 500  # characters of each
Json = dict[str, JsonValue]


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
    """What is posted as `json`."""

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
        counts = [
            f"{states.count(state)} {state}" for state in (FIRING, RESOLVED) if state in states
        ]
        about = f"{self.model} version {self.model_version}"
        return f"{about}: {', '.join(counts)}, window {self.window}"


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


def line(alert: Alert) -> str:
    """Return an alert for the terminal."""
    if alert.state == FIRING:
        return f"alert: {alert.verdict}: {alert.text}"
    return f"resolved: {alert.name}, which was last seen in the window to {alert.seen:%Y-%m-%d}"


def look_back_line(end: datetime, newest: datetime) -> str:
    windows = f"the window to {end:%Y-%m-%d %H:%M} is older than the newest one"
    return f"no alerts: {windows}, to {newest:%Y-%m-%d %H:%M}"


def for_people(message: Message) -> Iterator[tuple[str, str, str]]:
    """Yield status, heading and text of the alerts, not more than fit a message."""
    for alert in message.alerts[:MAX_ALERTS]:
        heading = f"{alert.status}: {alert.rule}"
        text = alert.text if alert.status == FIRING else f"before: {alert.text}"
        yield alert.status, heading[:MAX_TEXT], text[:MAX_TEXT]
    if (more := len(message.alerts) - MAX_ALERTS) > 0:
        yield FIRING, f"and {more} more", "see the report"


def slack(message: Message) -> Json:
    """Return a message for an incoming webhook of Slack's."""
    title = escape_slack(message.title)
    blocks: list[JsonValue] = [{"type": "section", "text": mrkdwn(f"*{title}*")}]
    for status, heading, text in for_people(message):
        sign = ":red_circle:" if status == FIRING else ":large_green_circle:"
        shown = mrkdwn(f"{sign} {escape_slack(heading)}\n{escape_slack(text)}")
        blocks.append({"type": "section", "text": shown})
    report = mrkdwn(escape_slack(f"report: {message.report}"))
    return {"text": title, "blocks": [*blocks, {"type": "context", "elements": [report]}]}


def mrkdwn(text: str) -> Json:
    return {"type": "mrkdwn", "text": text, "verbatim": True}  # no name in it becomes a mention


def escape_slack(text: str) -> str:
    """Return a text that Slack reads no command in; <!channel> would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def teams(message: Message) -> Json:
    """Return an Adaptive Card for a webhook of the Workflows app in Teams."""
    body: list[JsonValue] = [text_block(message.title, weight="Bolder", size="Medium")]
    for status, heading, text in for_people(message):
        colour = "Attention" if status == FIRING else "Good"
        body += [text_block(heading, weight="Bolder", color=colour), text_block(text)]
    body.append(text_block(f"report: {message.report}", isSubtle=True))
    card: Json = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "fallbackText": message.title,
        "body": body,
        "msteams": {"width": "full"},
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment: Json = {"contentType": kind, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def text_block(text: str, **style: str | bool) -> Json:
    # Not a TextBlock, which would read the names of columns as Markdown.
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


def as_json(message: Message) -> Json:
    return message.model_dump(mode="json")


FORMATS: dict[str, Callable[[Message], Json]] = {"json": as_json, "slack": slack, "teams": teams}
