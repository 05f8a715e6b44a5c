"""Decision: whether to retrain, from evidence and the limits in params.yaml. It reads nothing."""

from datetime import datetime
from typing import NamedTuple

from pydantic.dataclasses import dataclass

from mlops_loop.base.params import Retrain as Limits


@dataclass(frozen=True)
class Evidence:
    """What the decision rests on."""

    until: datetime
    champion: str | None  # its version
    trained_through: datetime | None  # end of the data of the last training
    retrained: tuple[datetime, ...] = ()  # `until` of all retrainings, the last one last
    decay: tuple[str, ...] = ()  # alarms of the monitor about the champion since
    rows: int | None = None  # labelled ones since; None if the contract has no time
    newest: datetime | None = None  # of all labelled rows until then
    oldest: datetime | None = None
    changed: tuple[str, ...] = ()  # files since
    force_reason: str | None = None  # of --force; None without it


class Ground(NamedTuple):
    """A rule, and what was found: something that speaks for a retraining, or against it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Decision(NamedTuple):
    retrain: bool
    reasons: tuple[Ground, ...]
    against: tuple[Ground, ...]


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Return whether to retrain, and all that speaks for and against it.

    One reason is enough, if nothing is against it; with --force, nothing else counts.
    """
    of_data = data_reasons(evidence, limits)
    reasons = of_data + other_reasons(evidence)
    against = objections(evidence, limits, needs_data=bool(of_data))
    allowed = evidence.force_reason is not None or not against
    return Decision(bool(reasons) and allowed, tuple(reasons), tuple(against))


def data_reasons(evidence: Evidence, limits: Limits) -> list[Ground]:
    """Return the reasons that need data which are newer than the last training's."""
    reasons = [Ground("decay", text) for text in evidence.decay]
    if evidence.trained_through:
        since = (evidence.until - evidence.trained_through).days
        if since >= limits.every_days:
            last = f"{evidence.trained_through:%Y-%m-%d}"
            reasons.append(
                Ground("schedule", f"{since} days since {last}, at most {limits.every_days}")
            )
    if evidence.rows and evidence.rows >= limits.new_rows:
        text = f"{evidence.rows:,} labelled rows, from {limits.new_rows:,} on"
        reasons.append(Ground("new data", text))
    return reasons


def other_reasons(evidence: Evidence) -> list[Ground]:
    reasons = []
    if evidence.champion is None:
        reasons.append(Ground("no champion", "there is none yet"))
    if evidence.changed:
        reasons.append(Ground("code", f"{', '.join(evidence.changed)} changed"))
    if evidence.force_reason is not None:
        reasons.append(Ground("on demand", evidence.force_reason or "no reason was given"))
    return reasons


def objections(evidence: Evidence, limits: Limits, needs_data: bool) -> list[Ground]:
    against = []
    nothing_else = not evidence.changed and evidence.champion is not None
    if needs_data and evidence.rows == 0 and nothing_else:
        newest = f"no labelled row is newer than {evidence.trained_through:%Y-%m-%d}"
        against.append(Ground("no new data", newest))
    if evidence.retrained:
        last = evidence.retrained[-1]
        passed = (evidence.until - last).days
        if passed < 0:
            text = f"it was retrained until {last:%Y-%m-%d}, which is later"
            against.append(Ground("order", text))
        elif passed < limits.cooldown_days:
            text = f"{passed} days since the last retraining, {limits.cooldown_days} are asked for"
            against.append(Ground("cool-down", text))
        runs = recent_runs(evidence, limits.budget.days)
        if runs >= limits.budget.runs:
            text = f"{runs} retrainings in {limits.budget.days} days, at most {limits.budget.runs}"
            against.append(Ground("budget", text))
    return against


def recent_runs(evidence: Evidence, days: int) -> int:
    """Return how many retrainings there were in the last `days`."""
    return sum((evidence.until - day).days < days for day in evidence.retrained)
