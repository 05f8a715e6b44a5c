"""Alerts: notify people of what `monitor` finds, once when it begins and once when it is over."""

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.settings import Settings
from mlops_loop.monitoring.alerting import delivery, messages
from mlops_loop.monitoring.alerting.alert_state import CHANNELS, confirm, due, record
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.window_summary import WindowSummary


@dataclass(frozen=True)
class Delivery:
    """What to print, and which channels could not be reached: the next run notifies them."""

    lines: list[str] = field(default_factory=list)
    undelivered: str = ""


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
                if problem := send(channel, settings, messages.message(summary, alerts)):
                    problems.append(problem)
                else:
                    delivered.append(channel)
        finally:
            if changes.claimed:
                confirm(engine, summary.model, changes.claimed, delivered)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    if changes.newer:
        return Delivery([messages.look_back_line(summary.end, changes.newer)])
    return Delivery([messages.line(alert) for alert in changes.new], "; ".join(problems))


def send(channel: str, settings: Settings, message: messages.Message) -> str:
    """Send a message to a channel; return why that failed, or nothing."""
    if channel == "file":
        return delivery.append_to_file(Path(settings.alert_file), message)
    body = messages.FORMATS[settings.alert_format](message)
    return delivery.post(settings.alert_webhook.get_secret_value().strip(), body)
