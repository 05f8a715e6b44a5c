"""What a window shows, in a few words, as the pages of the monitor say it."""

from mlops_loop.monitoring.rules import rule_of
from mlops_loop.prediction_log.window_summary import WindowSummary


def badges(summary: WindowSummary) -> list[str]:
    """Return the verdicts; where none was reached, whether anything was judged at all."""
    if summary.verdicts:
        return summary.verdicts
    measured = summary.performance.metrics if summary.performance else None
    if summary.drift is None and not measured:
        return ["not judged"]
    return ["nothing to report"]


def subjects(summary: WindowSummary) -> str:
    """Return what the alarms are about."""
    return ", ".join(rule_of(alarm).subject for alarm in summary.alarms)


def count_drifted(summary: WindowSummary) -> str:
    """Return how many of the columns drifted: 1 of 18."""
    columns = summary.drift.columns.values() if summary.drift else ()
    return f"{sum(column.drifted for column in columns)} of {len(columns)}" if columns else ""
