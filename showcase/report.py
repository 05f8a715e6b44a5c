"""The report: the year as one page with charts, and as two tables for the terminal."""

from html import escape
from os.path import relpath
from pathlib import Path

from rich.table import Table

from showcase.charts import charts
from showcase.documents import Alarm, MonitorSummary
from showcase.page import Cell, Markup, badges, format_value, link, table, write_page
from showcase.story import FaultResult, Month, Story, first_day

RESULTS = {"failed": "the retraining failed"}
SEASON = (
    "Drift alone is a question: a month differs from the training data. Decay, which outcomes "
    "show, new data, new code or the time that has passed may justify another model."
)


def rules(alarms: list[Alarm]) -> str:
    """Return what the alarms are about, by verdict."""
    about: dict[str, list[str]] = {}
    for alarm in alarms:
        about.setdefault(alarm.verdict, []).append(alarm.rule.partition(": ")[2])
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in about.items()) or "none"


def decision(month: Month) -> str:
    """Return in a few words what was decided after a month."""
    found = month.retrain
    if found is None:
        return "the last month"
    if found.result in ("promoted", "refused"):
        return f"version {found.version} {found.result}"
    if found.result == "declined":
        names = ", ".join(found.decision.blocked_by)
        return f"not retrained ({names})" if found.decision.reasons and names else "not retrained"
    return RESULTS.get(found.result, found.result)


def why(month: Month) -> str:
    """Return what spoke for a retraining, and what against it or against the candidate."""
    if month.retrain is None:
        return ""
    reasons = "; ".join(month.retrain.decision.reasons)
    against = month.retrain.reason
    return f"for: {reasons}; against: {against}" if reasons and against else reasons or against


def drifted(monitor: MonitorSummary) -> str:
    """Return how many of the columns drifted."""
    columns = monitor.drift.columns if monitor.drift else {}
    return f"{sum(column.drifted for column in columns.values())} of {len(columns)}"


def undisturbed(story: Story, fault: FaultResult) -> str:
    """Return whether the rule that caught a fault had fired on the same month without it."""
    alarms = next(month.monitor.alarms for month in story.months if month.name == fault.month)
    return "fired as well" if fault.expected.among(alarms) else "silent"


def worth(story: Story) -> str:
    """Return what the loop was worth, in a sentence."""
    found = [month.comparison for month in story.months]
    gains = [each.gain for each in found]
    better = sum(each.low > 0 for each in found)
    worse = sum(each.high < 0 for each in found)
    closer = sum(each.champion_error < each.frozen_error for each in found)
    farther = sum(each.champion_error > each.frozen_error for each in found)
    return (
        f"In {story.metric} the served champion gained {sum(gains) / len(gains):+.3f} on average "
        f"over the frozen first model, {min(gains):+.3f} to {max(gains):+.3f} a month; "
        f"surely better in {better} of {len(gains)} months, surely worse in {worse}. "
        f"Its calibration was better than the frozen model's in {closer} of them, "
        f"worse in {farther}"
    )


def year_table(story: Story) -> Table:
    """Return the table of the months for the terminal."""
    heads = ("month", "rows", "drift", story.metric, "frozen", "alarms", "decision")
    found = Table(*heads, title="The year")
    for month in story.months:
        found.add_row(
            month.name,
            f"{month.rows:,}",
            drifted(month.monitor),
            f"{month.comparison.champion:.3f}",
            f"{month.comparison.frozen:.3f}",
            rules(month.monitor.alarms),
            decision(month),
        )
    return found


def incident_table(story: Story) -> Table:
    """Return the table of faults, naive candidates and changes of the model for the terminal."""
    heads = ("incident", "month", "caught by", "on the month as it was")
    found = Table(*heads, title="Incidents, in their first window")
    for fault in story.faults:
        alarm = fault.alarm
        caught = f"{alarm.verdict}: {alarm.text}" if alarm else "[bold red]NOT CAUGHT"
        found.add_row(fault.what, fault.month, caught, undisturbed(story, fault))
    for naive in story.naive:
        found.add_row(
            f"a candidate from the last three months alone: {naive.candidate:.3f}",
            naive.month,
            f"the gates: {naive.outcome}",
            f"champion {naive.champion:.3f}, frozen {naive.frozen:.3f}",
        )
    for swap in story.swaps:
        found.add_row(
            swap.what,
            "",
            f"{swap.requests:,} requests meanwhile, {swap.failed} not answered",
            " then ".join(f"version {version}" for version in swap.versions),
        )
    return found


def month_section(story: Story, base: str) -> list[str]:
    heads = ("month", "rows", "answered by", "columns drifted", story.metric, "frozen")
    lines: list[list[Cell]] = [
        [
            link(f"{base}/{month.monitor.report}", month.name),
            month.rows,
            f"version {month.version}",
            drifted(month.monitor),
            month.comparison.champion,
            month.comparison.frozen,
            badges(month.monitor.verdicts),
            rules(month.monitor.alarms),
            decision(month),
            why(month),
        ]
        for month in story.months
    ]
    return [
        "<h2>Month by month</h2>",
        table((*heads, "", "alarms", "decision", "why"), lines),
        f'<p class="quiet">{SEASON}</p>',
    ]


def fault_section(story: Story, base: str) -> list[str]:
    heads = ("what", "month", "verdict", "alarm", "the same rule on the month as it was", "")
    lines: list[list[Cell]] = [
        [
            fault.what,
            fault.month,
            badges(fault.verdicts),
            fault.alarm.text if fault.alarm else "NOT CAUGHT",
            undisturbed(story, fault),
            link(f"{base}/{fault.page}", "report"),
        ]
        for fault in story.faults
    ]
    return ["<h2>Incidents, each in its first window</h2>", table(heads, lines)]


def naive_section(story: Story) -> list[str]:
    if not story.naive:
        return []
    heads = ("month", "naive candidate", "champion", "frozen", "gates", "why")
    lines: list[list[Cell]] = [
        [n.month, n.candidate, n.champion, n.frozen, n.outcome, n.reason] for n in story.naive
    ]
    return [
        "<h2>A naive sliding window</h2>",
        "<p>A candidate that learned from the last three months alone, compared on the newest "
        "weeks.</p>",
        table(heads, lines),
    ]


def swap_section(story: Story) -> list[str]:
    heads = ("what", "requests", "not answered", "versions that answered")
    lines: list[list[Cell]] = [
        [swap.what, swap.requests, swap.failed, " then ".join(swap.versions)]
        for swap in story.swaps
    ]
    return ["<h2>Requests during retrainings and changes of the model</h2>", table(heads, lines)]


def about(story: Story) -> str:
    found = story.first_metrics.items()
    values = ", ".join(f"{name} {format_value(value)}" for name, value in found)
    month = f"{first_day(story.first_month - 1):%B}"
    return (
        "Real flights of 2013. The first model that passed the gates was evaluated on the last "
        f"weeks of {month} ({values}), trained on what was earlier, and went on in the shadow, "
        "frozen: it is the control. The showcase sent each month's flights to the real server over "
        "HTTP; the outcomes arrived a day later. After each month it ran monitor, and retrain "
        "decided from the evidence whether to train another model. A candidate learned from all "
        "but the newest weeks whose outcomes were known, and was compared on those with the "
        "champion, the version that is served: the gates, checks with limits in params.yaml, "
        "promoted or refused it."
    )


def links(folder: Path, base: str) -> Markup:
    """Return links to those reports that there are: in two months there may be no retraining."""
    reports = {
        "reports/monitor/index.html": "What the monitor found in each month",
        "faults/reports/monitor/index.html": "in the incidents",
        "reports/retrain/summary.md": "the last retraining",
        "alerts.jsonl": "the alerts",
    }
    found = [
        link(f"{base}/{path}", text) for path, text in reports.items() if (folder / path).exists()
    ]
    return Markup(", ".join(found))


def write(story: Story, page: Path, folder: Path) -> None:
    """Write the page of the year; it links to the reports in `folder`."""
    base = Path(relpath(folder, page.parent)).as_posix()
    parts = [
        f"<p><b>What the loop was worth.</b> {escape(worth(story))}.</p>",
        f"<p>{escape(about(story))}</p>",
        f"<main>{''.join(charts(story))}</main>",
        *month_section(story, base),
        *fault_section(story, base),
        *naive_section(story),
        *swap_section(story),
        "<h2>Look further</h2>",
        f"<p>{links(folder, base)}.</p>",
    ]
    write_page(page, "Flights of 2013, month by month", parts)
