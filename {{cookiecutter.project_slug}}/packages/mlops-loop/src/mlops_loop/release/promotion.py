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

    @classmethod
    def of(cls, version: str, before: str | None, results: list[GateResult]) -> Self:
        """Return what the gates' results make of a version, beside the champion of before."""
        if reasons(results):
            return cls(outcome="refused", version=version, champion=before, gates=results)
        outcome: Literal["promoted", "unchanged"] = "promoted" if results else "unchanged"
        return cls(outcome=outcome, version=version, champion=version, gates=results)

    @property
    def text(self) -> str:
        """The outcome as a line for people."""
        if self.outcome == "refused":
            against = reasons(self.gates)
            listed = against[:SHOWN]
            if len(against) > SHOWN:
                listed.append(f"and {len(against) - SHOWN} more")
            return f"version {self.version} stays a challenger: {'; '.join(listed)}"
        if self.outcome == "promoted":
            return f"version {self.version} is the new champion"
        return f"version {self.version} is champion already; it was not judged again"

    def checked(self) -> Self:
        """Return it, or raise a Refusal with the gates' reasons."""
        if self.outcome == "refused":
            raise Refusal(self.text)
        return self


def reasons(results: list[GateResult]) -> list[str]:
    """Return why the gates refuse a candidate; nothing if they do not."""
    return [format_reason(result) for result in results if result.passed is False]


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
