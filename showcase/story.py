"""What happens in the year, as values: the page and the tables are made from these."""

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from showcase.documents import Alarm, MonitorSummary, RetrainSummary

TIMESTAMP = "scheduled_departure"


@dataclass(frozen=True)
class Comparison:
    """Champion and frozen first model on the same rows of a month."""

    champion: float  # the metric
    frozen: float
    gain: float  # positive if the champion is better
    low: float  # of the gain's 95 % interval
    high: float
    champion_error: float  # of the calibration
    frozen_error: float


@dataclass(frozen=True)
class Month:
    name: str
    rows: int
    version: str  # that answered
    monitor: MonitorSummary
    retrain: RetrainSummary | None  # none after the last month: nothing is to come
    comparison: Comparison


@dataclass(frozen=True)
class Expected:
    """The alarm that must see a fault, by the id of its rule and its column."""

    id: str
    column: str | None = None

    def among(self, alarms: list[Alarm]) -> Alarm | None:
        """Return the alarm if it is there."""
        mine = (self.id, self.column)
        return next((alarm for alarm in alarms if (alarm.id, alarm.column) == mine), None)


@dataclass(frozen=True)
class FaultResult:
    """A fault in its first window: verdicts, the alarm that must see it, and the page."""

    what: str
    expected: Expected
    month: str
    verdicts: tuple[str, ...]
    alarm: Alarm | None
    page: str


@dataclass(frozen=True)
class NaiveCandidate:
    """A candidate that learned from a short window alone, and what the gates said of it."""

    month: str
    candidate: float  # the metric, of all three on the candidate's test window
    champion: float
    frozen: float
    outcome: str  # promoted, refused or unchanged
    reason: str


@dataclass(frozen=True)
class Swap:
    """Requests that came while a model changed: how many, how many of them failed, who answered."""

    what: str
    requests: int
    failed: int
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    metric: str
    first_month: int  # that the first model did not know
    first_metrics: dict[str, float]  # on its test window
    max_calibration_error: float  # beyond which the monitor says decay
    months: tuple[Month, ...]
    faults: tuple[FaultResult, ...]
    naive: tuple[NaiveCandidate, ...]
    swaps: tuple[Swap, ...]


def first_day(month: int) -> datetime:
    """Return the first day of a month of 2013; the thirteenth is the next January."""
    return datetime(2013 + month // 13, (month - 1) % 12 + 1, 1)


def name_of(month: int) -> str:
    return f"{first_day(month):%Y-%m}"


def in_month(flights: pd.DataFrame, month: int) -> pd.DataFrame:
    when = flights[TIMESTAMP]
    return flights[(when >= first_day(month)) & (when < first_day(month + 1))]
