"""Rules: what the monitor checks, each with an id for programs and a name for people."""

from collections.abc import Container
from typing import NamedTuple, Self

from mlops_loop.prediction_log.window_summary import Alarm

SUBJECTS = {
    "drift": "{column}",
    "quality.nulls": "nulls in {column}",
    "quality.unseen": "unseen in {column}",
    "quality.refused": "refused requests",
}


class Rule(NamedTuple):
    """`id` is the verdict and what is checked: drift, quality.nulls, decay.roc_auc."""

    id: str
    column: str | None = None

    @property
    def verdict(self) -> str:
        return self.id.partition(".")[0]

    @property
    def key(self) -> str:
        """The rule as one text, by which the table `alerts` knows it."""
        return self.id if self.column is None else f"{self.id}:{self.column}"

    @classmethod
    def from_key(cls, key: str) -> Self:
        rule, colon, column = key.partition(":")  # no id holds a colon; a column may
        return cls(rule, column if colon else None)

    @property
    def subject(self) -> str:
        return SUBJECTS.get(self.id, self.id.partition(".")[2]).format(column=self.column)

    @property
    def name(self) -> str:
        return f"{self.verdict}: {self.subject}"

    def is_among(self, ids: Container[str]) -> bool:
        """Return whether the rule, or a family that it belongs to, is among these ids."""
        parts = self.id.split(".")
        families = [".".join(parts[: length + 1]) for length in range(len(parts))]
        return any(family in ids for family in families)

    def alarm(self, value: float | None, limit: float | None, text: str) -> Alarm:
        return Alarm(
            rule=self.name,
            id=self.id,
            column=self.column,
            verdict=self.verdict,
            value=value,
            limit=limit,
            text=text,
        )


def rule_of(alarm: Alarm) -> Rule:
    """Return an alarm's rule; of a summary of before it had an id, the name takes its place."""
    return Rule(alarm.id or alarm.rule, alarm.column)
