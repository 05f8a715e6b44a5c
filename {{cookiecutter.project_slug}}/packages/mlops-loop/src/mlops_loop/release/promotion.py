"""Promotion: what came of `promote`, as a table for people and as `promote --json` prints it."""

from typing import Literal, Self

from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from mlops_loop.base.errors import Refusal
from mlops_loop.base.terminal import open_console
from mlops_loop.metrics.gate_result import GateResult, format_reason
from mlops_loop.release.gates.run import advices

WORDS = {True: "passed", False: "[bold red]REFUSED", None: "[dim]not judged"}
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
        return [format_reason(result) for result in self.gates if result.passed is False]

    @property
    def text(self) -> str:
        """The outcome as a line for people."""
        if self.outcome == "refused":
            more = len(self.reasons) - SHOWN
            listed = self.reasons[:SHOWN] + [f"and {more} more"] * (more > 0)
            return f"version {self.version} stays a challenger: {'; '.join(listed)}"
        if self.outcome == "promoted":
            return f"version {self.version} is the new champion"
        return f"version {self.version} is champion already; it was not judged again"

    def checked(self) -> Self:
        """Return it, or raise a Refusal with the gates' reasons."""
        if self.outcome == "refused":
            raise Refusal(self.text)
        return self


def print_gates(results: list[GateResult]) -> None:
    """Print what the gates say, and what to try; nothing if they were not asked."""
    if not results:
        return
    table = Table("gate", "measure", "value", "limit", "result", title="Gates")
    for result in results:
        value = "" if result.value is None else f"{result.value:.4g}"
        row = (result.gate, result.measure, value, result.limit)
        table.add_row(*map(escape, row), WORDS[result.passed])
    console = open_console()
    console.print(table)
    for line in advices(results):
        console.print(f"what to try: {escape(line)}", soft_wrap=True)
