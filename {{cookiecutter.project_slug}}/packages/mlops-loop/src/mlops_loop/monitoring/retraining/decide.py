"""Decide: whether to retrain, from evidence and the limits in params.yaml. It reads nothing."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel

from mlops_loop.base.params import Retrain as Limits

Ground = tuple[str, str]  # a rule, and what was found


class Evidence(BaseModel, frozen=True):
    """What the decision rests on."""

    until: datetime
    champion: str | None = None  # its version
    trained_through: datetime | None = None  # end of the data of the last training
    retrained: tuple[datetime, ...] = ()  # `until` of all retrainings, the last one last
    decay: tuple[str, ...] = ()  # alarms of the monitor about the champion since
    rows: int | None = None  # labelled ones since; None if the contract has no time
    newest: datetime | None = None  # of all labelled rows until then
    oldest: datetime | None = None
    changed: tuple[str, ...] = ()  # files since
    force_reason: str | None = None  # of --force; None without it

    def recent_runs(self, days: int) -> int:
        """Return how many retrainings there were in the last `days`."""
        return sum((self.until - day).days < days for day in self.retrained)


class Decision(BaseModel, frozen=True):
    """`reasons` and `against` are for people; `rules` and `blocked_by` name their rules."""

    retrain: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    rules: tuple[str, ...]
    blocked_by: tuple[str, ...]


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Return whether to retrain: for one reason if nothing is against it, or by --force."""
    reasons = list(reasons_for(evidence, limits))
    against = list(objections(evidence, limits))
    return Decision(
        retrain=bool(reasons) and (evidence.force_reason is not None or not against),
        reasons=tuple(map(": ".join, reasons)),
        against=tuple(map(": ".join, against)),
        rules=tuple(rule for rule, _ in reasons),
        blocked_by=tuple(rule for rule, _ in against),
    )


def reasons_for(evidence: Evidence, limits: Limits) -> Iterator[Ground]:
    for text in evidence.decay:
        yield "decay", text
    if last := evidence.trained_through:
        since = (evidence.until - last).days
        if since >= limits.every_days:
            yield "schedule", f"{since} days since {last:%Y-%m-%d}, at most {limits.every_days}"
    if evidence.rows and evidence.rows >= limits.new_rows:
        yield "new data", f"{evidence.rows:,} labelled rows, from {limits.new_rows:,} on"
    if evidence.champion is None:
        yield "no champion", "there is none yet"
    if evidence.changed:
        yield "code", f"{', '.join(evidence.changed)} changed"
    if evidence.force_reason is not None:
        yield "on demand", evidence.force_reason or "no reason was given"


def objections(evidence: Evidence, limits: Limits) -> Iterator[Ground]:
    # New code needs no new data, nor does a first champion.
    if evidence.rows == 0 and evidence.champion and not evidence.changed:
        yield "no new data", f"no labelled row is newer than {evidence.trained_through:%Y-%m-%d}"
    if not evidence.retrained:
        return
    last = evidence.retrained[-1]
    passed = (evidence.until - last).days
    if passed < 0:
        yield "order", f"it was retrained until {last:%Y-%m-%d}, which is later"
    elif passed < limits.cooldown_days:
        asked = f"{limits.cooldown_days} are asked for"
        yield "cool-down", f"{passed} days since the last retraining, {asked}"
    budget = limits.budget
    if (runs := evidence.recent_runs(budget.days)) >= budget.runs:
        yield "budget", f"{runs} retrainings in {budget.days} days, at most {budget.runs}"
