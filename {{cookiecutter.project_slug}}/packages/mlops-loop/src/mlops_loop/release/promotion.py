"""Promotion: what came of `promote`, as `promote --json` prints it."""

from typing import Literal, Self

from pydantic import BaseModel

from mlops_loop.base.errors import Refusal
from mlops_loop.metrics.gate_result import GateResult, format_reason

SHOWN = 3  # reasons in the line that tells of a refusal; the table and the records have all


class Promotion(BaseModel, frozen=True):
    """`unchanged`: the candidate is champion already, and was not judged again."""

    outcome: Literal["promoted", "refused", "unchanged"]
    version: str  # of the candidate
    champion: str | None  # the version that is served from now on
    gates: list[GateResult] = []

    @property
    def reasons(self) -> list[str]:
        """Why the gates refuse the candidate; nothing if they do not."""
        return reasons(self.gates)

    @property
    def text(self) -> str:
        """The outcome as a line for people."""
        if self.outcome == "refused":
            more = len(self.reasons) - SHOWN
            listed = "; ".join(self.reasons[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
            return f"version {self.version} stays a challenger: {listed}"
        if self.outcome == "promoted":
            return f"version {self.version} is the new champion"
        return f"version {self.version} is champion already; it was not judged again"

    def checked(self) -> Self:
        """Return it, or raise a Refusal with the gates' reasons."""
        if self.outcome == "refused":
            raise Refusal(self.text)
        return self


def reasons(results: list[GateResult]) -> list[str]:
    return [format_reason(result) for result in results if result.passed is False]
