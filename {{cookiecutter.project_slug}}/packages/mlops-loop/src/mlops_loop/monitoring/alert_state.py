"""Alert state: which rules fire, and who has been notified, in the prediction log's database."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from mlops_loop.base.settings import Settings
from mlops_loop.monitoring.rules import Rule, rule_of
from mlops_loop.prediction_log.tables import lock_database
from mlops_loop.prediction_log.window_summary import Alarm, WindowSummary

FIRING = "firing"
RESOLVED = "resolved"
CHANNELS = ("webhook", "file")
CLAIM = timedelta(minutes=10)  # after which a process that began to notify must have died

METADATA = sa.MetaData()
ALERTS = sa.Table(
    "alerts",  # the newest state of every rule that ever fired
    METADATA,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("rule", sa.String(500), primary_key=True),  # its key, such as quality.nulls:humidity
    sa.Column("verdict", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened", sa.DateTime(timezone=True), nullable=False),  # UTC, end of its first window
    sa.Column("seen", sa.DateTime(timezone=True), nullable=False),  # UTC, end of its last window
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("limit", sa.Float),
    # The state of which each channel was notified last; empty if it never was.
    sa.Column("webhook", sa.String(16), nullable=False),
    sa.Column("file", sa.String(16), nullable=False),
    sa.Column("claimed", sa.DateTime(timezone=True)),  # UTC, when a process began to notify
)
NEWEST = sa.Table(
    "alerts_newest",  # the end of the newest window
    METADATA,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("end", sa.DateTime(timezone=True), nullable=False),  # UTC
)


@dataclass(frozen=True)
class Alert:
    """A row of the table `alerts`."""

    model: str
    rule: str  # its key
    verdict: str
    state: str
    opened: datetime
    seen: datetime
    text: str
    value: float | None
    limit: float | None
    webhook: str = ""
    file: str = ""
    claimed: datetime | None = None

    @classmethod
    def of_row(cls, row: sa.RowMapping) -> "Alert":
        values = {part.name: row[part.name] for part in fields(cls)}
        times = {name: utc(values[name]) for name in ("opened", "seen")}
        claimed = values["claimed"]
        return cls(**(values | times | {"claimed": claimed and utc(claimed)}))

    @property
    def name(self) -> str:
        return Rule.from_key(self.rule).name

    def notified(self, channel: str) -> str:
        return self.webhook if channel == "webhook" else self.file


@dataclass(frozen=True)
class Changes:
    """What a window changes: alerts of another state, and those to notify of."""

    new: list[Alert] = field(default_factory=list)
    claimed: list[Alert] = field(default_factory=list)
    newer: datetime | None = None  # end of a window that is newer: this one changes nothing


def utc(time: datetime) -> datetime:
    """Return a time with its zone, which SQLite forgets."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def record(engine: sa.Engine, settings: Settings, summary: WindowSummary) -> Changes:
    """Store what this window changes; return it. The alerts to notify of are claimed."""
    mine = ALERTS.c.model == summary.model
    with engine.begin() as connection:
        lock_database(connection)
        METADATA.create_all(connection)
        if newer := newer_window(connection, summary):
            return Changes(newer=newer)
        rows = connection.execute(sa.select(ALERTS).where(mine)).mappings()
        before = {row["rule"]: Alert.of_row(row) for row in rows}
        after = changed(before, summary)
        claimed = claim((before | after).values(), settings, datetime.now(UTC))
        stored = after | {alert.rule: alert for alert in claimed}
        connection.execute(sa.delete(ALERTS).where(mine & ALERTS.c.rule.in_(list(stored))))
        if stored:
            connection.execute(sa.insert(ALERTS), [asdict(alert) for alert in stored.values()])
    new = [alert for rule, alert in after.items() if alert.state != state_of(before.get(rule))]
    return Changes(new, claimed)


def newer_window(connection: sa.Connection, summary: WindowSummary) -> datetime | None:
    """Return the end of the newest window if it is newer than this one; else this is the newest."""
    mine = NEWEST.c.model == summary.model
    newest = connection.scalar(sa.select(NEWEST.c.end).where(mine))
    if newest and summary.end < utc(newest):
        return utc(newest)
    connection.execute(sa.delete(NEWEST).where(mine))
    connection.execute(sa.insert(NEWEST), {"model": summary.model, "end": summary.end})
    return None


def state_of(alert: Alert | None) -> str:
    return alert.state if alert else RESOLVED


def changed(before: Mapping[str, Alert], summary: WindowSummary) -> dict[str, Alert]:
    """Return the alerts that a window opens, continues or resolves, as they are after it."""
    firing = [fire(alarm, before.get(rule_of(alarm).key), summary) for alarm in summary.alarms]
    after = {alert.rule: alert for alert in firing}
    for rule, alert in before.items():
        if alert.state == FIRING and rule not in after and was_checked(rule, summary):
            after[rule] = replace(alert, state=RESOLVED)
    return after


def fire(alarm: Alarm, before: Alert | None, summary: WindowSummary) -> Alert:
    is_open = before is not None and before.state == FIRING
    return Alert(
        model=summary.model,
        rule=rule_of(alarm).key,
        verdict=alarm.verdict,
        state=FIRING,
        opened=before.opened if before and is_open else summary.end,
        seen=summary.end,
        text=alarm.text,
        value=alarm.value,
        limit=alarm.limit,
        webhook=before.webhook if before else "",
        file=before.file if before else "",
        claimed=before.claimed if before else None,
    )


def was_checked(rule: str, summary: WindowSummary) -> bool:
    """Return whether neither a rule nor its family is among those that could not be judged."""
    return not Rule.from_key(rule).is_among(summary.not_judged)


def claim(alerts: Iterable[Alert], settings: Settings, now: datetime) -> list[Alert]:
    """Return the alerts to notify of, and of which no other process is notifying, as claimed."""
    free = [alert for alert in alerts if not alert.claimed or alert.claimed <= now - CLAIM]
    return [replace(alert, claimed=now) for alert in free if due(alert, settings)]


def is_due(alert: Alert, channel: str) -> bool:
    """Return whether a channel must be notified; not of the end of what it never heard of."""
    notified = alert.notified(channel)
    return notified != alert.state and bool(notified or alert.state == FIRING)


def due(alert: Alert, settings: Settings) -> list[str]:
    """Return the channels in use that must be notified of an alert."""
    used = {"webhook": settings.alert_urls.get_secret_value(), "file": settings.alert_file}
    return [channel for channel in CHANNELS if used[channel] and is_due(alert, channel)]


def confirm(engine: sa.Engine, model: str, alerts: list[Alert], delivered: list[str]) -> None:
    """Store who was notified, and release the rest for the next run."""
    with engine.begin() as connection:
        lock_database(connection)
        for alert in alerts:
            notified = {name: alert.state for name in delivered if is_due(alert, name)}
            claimed = (ALERTS.c.rule == alert.rule) & (ALERTS.c.claimed == alert.claimed)
            change = sa.update(ALERTS).where(claimed, ALERTS.c.model == model)
            connection.execute(change.values({"claimed": None, **notified}))
