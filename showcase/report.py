"""The report: the year as one page with charts, and as two tables for the terminal."""

from os.path import relpath
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from showcase.charts import charts
from showcase.documents import Alarm, MonitorSummary
from showcase.page import formats, page
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


def why(month: Month) -> list[str]:
    """Return what spoke for a retraining, and what against it or against the candidate."""
    if month.retrain is None:
        return []
    reasons = [f"for: {reason}" for reason in month.retrain.decision.reasons]
    against = [f"against: {part}" for part in month.retrain.reason.split("; ") if part]
    return reasons + against


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


class Tile(NamedTuple):
    """A number that tells a part of the story; `kind` is "bad" where it is no good news."""

    value: str
    label: str
    kind: str


def title(story: Story) -> str:
    """Return what the page shows: the months after those that the first model learned from."""
    if len(story.months) > 6:
        return "One year in production, in seven minutes"
    return f"{len(story.months)} months in production"


def span(story: Story) -> str:
    """Return from which month to which the champion served."""
    first, last = (first_day(int(month.name[5:])) for month in (story.months[0], story.months[-1]))
    return f"{first:%B} to {last:%B}"


def tiles(story: Story) -> list[Tile]:
    """Return what the year came to, in four numbers."""
    caught = sum(fault.alarm is not None for fault in story.faults)
    refused = sum(naive.outcome == "refused" for naive in story.naive)
    promoted = sum(
        month.retrain is not None and month.retrain.result == "promoted" for month in story.months
    )
    lost = sum(swap.failed for swap in story.swaps)
    requests = sum(swap.requests for swap in story.swaps)
    return [
        Tile(
            f"{caught} of {len(story.faults)}",
            "incidents caught in their first window",
            "" if caught == len(story.faults) else "bad",
        ),
        Tile(
            f"{refused} of {len(story.naive)}" if story.naive else "none",
            "naive candidates refused by the gates" if story.naive else "naive candidates tried",
            "" if refused == len(story.naive) else "bad",
        ),
        Tile(str(promoted), "retrained models promoted to champion", ""),
        Tile(
            f"{lost} of {requests:,}",
            "requests lost while models changed",
            "bad" if lost else "",
        ),
    ]


def about(story: Story) -> str:
    found = story.first_metrics.items()
    values = ", ".join(f"{name} {formats.number(value)}" for name, value in found)
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


def links(folder: Path, base: str) -> dict[str, str]:
    """Return links to those reports that there are: in two months there may be no retraining."""
    reports = {
        "What the monitor found in each month": "reports/monitor/index.html",
        "in the incidents": "faults/reports/monitor/index.html",
        "the last retraining": "reports/retrain/summary.html",
        "the alerts": "alerts.jsonl",
    }
    return {text: f"{base}/{path}" for text, path in reports.items() if (folder / path).exists()}


def write(story: Story, root: Path, path: Path, folder: Path) -> None:
    """Write the page into the project at `root`; it links to the reports in `folder`."""
    base = Path(relpath(folder, (root / path).parent)).as_posix()
    text = page.render(
        "showcase.html",
        title=title(story),
        project=root.name,
        links=page.links(path, root=root),
        facts=["flights of 2013, real data", span(story)],
        tiles=tiles(story),
        worth=worth(story),
        about=about(story),
        charts=charts(story),
        story=story,
        base=base,
        months=[
            (
                month,
                drifted(month.monitor),
                rules(month.monitor.alarms),
                decision(month),
                why(month),
            )
            for month in story.months
        ],
        faults=[(fault, undisturbed(story, fault)) for fault in story.faults],
        season=SEASON,
        further=links(folder, base),
    )
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, "utf-8")
    page.write_overview(root, root.name)
