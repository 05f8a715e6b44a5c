"""Rules: what the monitor checks, each with an id for programs and a name for people."""

from dataclasses import dataclass, field

from mlops_loop.prediction_log.window_summary import Alarm

SUBJECTS = {
    "drift": "{column}",
    "quality.nulls": "nulls in {column}",
    "quality.unseen": "unseen in {column}",
    "quality.refused": "refused requests",
}


@dataclass
class Findings:
    """What the checks of a window add to: alarms, and why a rule or a family was not judged."""

    alarms: list[Alarm] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)

    def alarm(
        self,
        rule: str,
        value: float | None,
        limit: float | None,
        text: str,
        column: str | None = None,
    ) -> None:
        """Add an alarm; `rule` is its id, the verdict and what is checked: drift, decay.roc_auc."""
        verdict, _, check = rule.partition(".")
        subject = SUBJECTS.get(rule, check).format(column=column)
        self.alarms.append(
            Alarm(
                rule=f"{verdict}: {subject}",
                id=rule,
                column=column,
                verdict=verdict,
                value=value,
                limit=limit,
                text=text,
            )
        )
