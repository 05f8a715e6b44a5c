"""Decide: whether to retrain, from evidence and the limits in params.yaml. It reads nothing."""

from datetime import datetime

from pydantic import BaseModel

from mlops_loop.base.params import Retrain as Limits


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


Ground = tuple[str, str]  # a rule, and what was found


class Decision(BaseModel, frozen=True):
    """`reasons` and `against` are for people; `rules` and `blocked_by` name their rules."""

    retrain: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    rules: tuple[str, ...]
    blocked_by: tuple[str, ...]


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Return whether to retrain: for one reason if nothing is against it, or by --force."""
    of_data = data_reasons(evidence, limits)
    reasons = of_data + other_reasons(evidence)
    against = objections(evidence, limits, needs_data=bool(of_data))
    return Decision(
        retrain=bool(reasons) and (evidence.force_reason is not None or not against),
        reasons=tuple(map(": ".join, reasons)),
        against=tuple(map(": ".join, against)),
        rules=tuple(rule for rule, _ in reasons),
        blocked_by=tuple(rule for rule, _ in against),
    )


def data_reasons(evidence: Evidence, limits: Limits) -> list[Ground]:
    """Return the reasons that need data which are newer than the last training's."""
    reasons = [("decay", text) for text in evidence.decay]
    if last := evidence.trained_through:
        since = (evidence.until - last).days
        if since >= limits.every_days:
            text = f"{since} days since {last:%Y-%m-%d}, at most {limits.every_days}"
            reasons.append(("schedule", text))
    if evidence.rows and evidence.rows >= limits.new_rows:
        text = f"{evidence.rows:,} labelled rows, from {limits.new_rows:,} on"
        reasons.append(("new data", text))
    return reasons


def other_reasons(evidence: Evidence) -> list[Ground]:
    reasons = []
    if evidence.champion is None:
        reasons.append(("no champion", "there is none yet"))
    if evidence.changed:
        reasons.append(("code", f"{', '.join(evidence.changed)} changed"))
    if evidence.force_reason is not None:
        reasons.append(("on demand", evidence.force_reason or "no reason was given"))
    return reasons


def objections(evidence: Evidence, limits: Limits, needs_data: bool) -> list[Ground]:
    against = []
    nothing_else = not evidence.changed and evidence.champion is not None
    if needs_data and evidence.rows == 0 and nothing_else:
        newest = f"no labelled row is newer than {evidence.trained_through:%Y-%m-%d}"
        against.append(("no new data", newest))
    if evidence.retrained:
        last = evidence.retrained[-1]
        passed = (evidence.until - last).days
        if passed < 0:
            against.append(("order", f"it was retrained until {last:%Y-%m-%d}, which is later"))
        elif passed < limits.cooldown_days:
            text = f"{passed} days since the last retraining, {limits.cooldown_days} are asked for"
            against.append(("cool-down", text))
        budget = limits.budget
        if (runs := evidence.recent_runs(budget.days)) >= budget.runs:
            text = f"{runs} retrainings in {budget.days} days, at most {budget.runs}"
            against.append(("budget", text))
    return against
