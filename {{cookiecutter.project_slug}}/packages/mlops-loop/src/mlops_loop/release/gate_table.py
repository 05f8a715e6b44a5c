"""The table of gates that `promote` prints."""

from rich.markup import escape
from rich.table import Table

from mlops_loop.base.terminal import open_console
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.gates.advice import advices

WORDS = {True: "passed", False: "[bold red]REFUSED", None: "[dim]not judged"}


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
