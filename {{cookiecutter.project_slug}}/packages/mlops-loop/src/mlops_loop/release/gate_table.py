"""The table of gates that `promote` prints."""

from rich.markup import escape
from rich.table import Table

from mlops_loop.base.terminal import open_console
from mlops_loop.metrics.gate_result import GateResult

WORDS = {True: "passed", False: "[bold red]REFUSED", None: "[dim]not judged"}


def print_gates(results: list[GateResult]) -> None:
    """Print what the gates say; nothing if they were not asked."""
    if not results:
        return
    table = Table("gate", "measure", "value", "limit", "result", title="Gates")
    for result in results:
        value = "" if result.value is None else f"{result.value:.4g}"
        row = (result.gate, result.measure, value, result.limit)
        table.add_row(*map(escape, row), WORDS[result.passed])
    open_console().print(table)
