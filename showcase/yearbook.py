"""Yearbook: the year as one page with pictures, and as a table for the terminal."""

from html import escape
from os.path import relpath
from pathlib import Path
from typing import Any

from rich.table import Table

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS
from mlops_loop.example.year import FOLDER, Month, Seen, Story, day
from mlops_loop.monitoring.pages import COLOURS, STYLE, badges, picture, shown, table

PAGE = REPORTS / "demo.html"
MARKS = {"promoted": ("^", "#1a7f37"), "refused": ("x", "#cf222e")}


def before(story: Story, seen: Seen) -> str:
    """Return whether the rule that saw an incident had fired on the month itself."""
    alarms = next(month.summary["alarms"] for month in story.months if month.name == seen.month)
    fired = any(alarm["rule"].startswith(seen.incident.rule) for alarm in alarms)
    return "fired as well" if fired else "silent"


def brief(rules: list[dict[str, Any]]) -> str:
    """Return what the alarms are about, by verdict."""
    about: dict[str, list[str]] = {}
    for alarm in rules:
        about.setdefault(alarm["verdict"], []).append(alarm["rule"].partition(": ")[2])
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in about.items()) or "none"


def decided(month: Month) -> str:
    """Return in a few words what was decided after a month."""
    found, result = month.decision, month.decision["result"]
    if result in ("promoted", "refused"):
        return f"version {found.get('version', '?')} {result}"
    if result == "declined":
        against = found["reason"].partition(":")[0]
        return f"not retrained ({against})" if found["decision"]["reasons"] else "not retrained"
    return {"last": "the last month", "failed": "the retraining failed"}.get(result, str(result))


def why(month: Month) -> str:
    """Return what spoke for a retraining after a month, and what against it or against the candidate."""
    found = month.decision
    reasons, against = (
        "; ".join(found.get("decision", {}).get("reasons", ())),
        found.get("reason", ""),
    )
    return f"for: {reasons}; against: {against}" if reasons and against else reasons or against


def drifted(month: Month) -> str:
    """Return how many of the columns drifted."""
    columns = (month.summary["drift"] or {}).get("columns", {})
    return f"{sum(column['drifted'] for column in columns.values())} of {len(columns)}"


def worth(story: Story) -> str:
    """Return what the loop was worth, in a sentence."""
    results = [month.result for month in story.months]
    gains = [result.gain for result in results]
    sure = sum(result.low > 0 for result in results)
    worse = sum(result.high < 0 for result in results)
    closer = sum(result.error < result.frozen_error for result in results)
    farther = sum(result.error > result.frozen_error for result in results)
    return (
        f"In {story.metric} the served champion gained {sum(gains) / len(gains):+.3f} on average "
        f"over the frozen first model, {min(gains):+.3f} to {max(gains):+.3f} a month; "
        f"surely better in {sure} of {len(gains)} months, surely worse in {worse}. "
        f"Its calibration was better than the frozen model's in {closer} of them, worse in {farther}"
    )


def terminal(story: Story) -> Table:
    """Return the table that the demo ends with."""
    heads = ("month", "rows", "drift", story.metric, "frozen", "alarms", "decision")
    found = Table(*heads, title="The year")
    for month in story.months:
        numbers = f"{month.result.champion:.3f}", f"{month.result.frozen:.3f}"
        row = (
            month.name,
            f"{month.rows:,}",
            drifted(month),
            *numbers,
            brief(month.summary["alarms"]),
        )
        found.add_row(*row, decided(month))
    return found


def incidents(story: Story) -> Table:
    found = Table(
        "incident",
        "month",
        "caught by",
        "on the month as it was",
        title="Incidents, in their first window",
    )
    for seen in story.seen:
        caught = (
            f"{seen.incident.rule.partition(':')[0]}: {seen.text}"
            if seen.text
            else "[bold red]NOT CAUGHT"
        )
        found.add_row(seen.incident.what, seen.month, caught, before(story, seen))
    for naive in story.naive:
        new, now, frozen = naive.metrics
        found.add_row(
            f"a candidate from the last three months alone: {new:.3f}",
            naive.month,
            "the gates: " + ("refused" if "stays a challenger" in naive.verdict else naive.verdict),
            f"champion {now:.3f}, frozen {frozen:.3f}",
        )
    for swap in story.swaps:
        wrong = sum(count for status, count in swap.statuses.items() if status != 200)
        found.add_row(
            swap.what,
            "",
            f"{swap.statuses.total():,} requests meanwhile, {wrong} not answered",
            " then ".join(f"version {version}" for version in swap.versions),
        )
    return found


def write(story: Story) -> Path:
    """Write the page of the year to reports/demo.html; return its path."""
    months = story.months
    names = [month.name for month in months]

    def axis(axes: Any) -> list[int]:
        places = list(range(len(months)))
        axes.set_xticks(places, [name[5:] for name in names])
        axes.tick_params(labelsize=8)
        return places

    def metric(axes: Any) -> None:
        places = axis(axes)
        values = [month.result.champion for month in months]
        axes.plot(places, values, "o-", color=COLOURS["now"], label="champion")
        frozen = [month.result.frozen for month in months]
        axes.plot(places, frozen, "o--", color=COLOURS["before"], label="frozen first model")
        for place, month in zip(places, months, strict=True):
            if mark := MARKS.get(month.decision["result"]):
                axes.plot(
                    place + 0.5, 0.04, mark[0], color=mark[1], transform=axes.get_xaxis_transform()
                )
        for name, (form, colour) in MARKS.items():
            axes.plot([], [], form, color=colour, label=f"a candidate {name} after the month")
        for naive in story.naive:
            if naive.month in names:
                axes.plot(
                    names.index(naive.month), naive.metrics[0], "v", color=COLOURS["estimate"]
                )
        if story.naive:
            axes.plot(
                [], [], "v", color=COLOURS["estimate"], label="naive candidate, on its test window"
            )
        axes.legend(
            fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1)
        )

    def gain(axes: Any) -> None:
        for place, month in zip(axis(axes), months, strict=True):
            axes.vlines(
                place,
                month.result.low,
                month.result.high,
                color=COLOURS["now"],
                linewidth=3,
                alpha=0.3,
            )
            axes.plot(place, month.result.gain, "o", color=COLOURS["now"])
        axes.axhline(0, color=COLOURS["before"], linewidth=1)

    def calibration(axes: Any) -> None:
        places = axis(axes)
        axes.plot(
            places,
            [month.result.error for month in months],
            "o-",
            color=COLOURS["now"],
            label="champion",
        )
        frozen = [month.result.frozen_error for month in months]
        axes.plot(places, frozen, "o--", color=COLOURS["before"], label="frozen first model")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, frameon=False)

    def drift(axes: Any) -> None:
        shares = [(month.summary["drift"] or {}).get("share", 0) for month in months]
        axes.bar(axis(axes), shares, color=COLOURS["estimate"])
        axes.set_ylim(0, 1)

    def link(path: str, text: str) -> str:
        return f'<a href="{escape(relpath(FOLDER / path, PAGE.parent))}">{escape(text)}</a>'

    lines = []
    for month in months:
        lines.append(
            (
                link(month.summary["report"], month.name),
                month.rows,
                f"version {month.version}",
                drifted(month),
                month.result.champion,
                month.result.frozen,
                f"<span>{badges(month.summary['verdicts'])}</span>",
                brief(month.summary["alarms"]),
                decided(month),
                why(month),
            )
        )
    heads = (
        "month",
        "rows",
        "answered by",
        "columns drifted",
        story.metric,
        "frozen",
        "",
        "alarms",
        "decision",
        "why",
    )
    happened = [
        (
            s.incident.what,
            s.month,
            f"<span>{badges(s.verdicts)}</span>",
            s.text or "NOT CAUGHT",
            before(story, s),
            link(s.page, "report"),
        )
        for s in story.seen
    ]
    naive = [
        (
            n.month,
            *n.metrics,
            "refused" if "stays a challenger" in n.verdict else n.verdict,
            n.verdict,
        )
        for n in story.naive
    ]
    swaps = [
        (
            s.what,
            s.statuses.total(),
            sum(count for status, count in s.statuses.items() if status != 200),
            " then ".join(s.versions),
        )
        for s in story.swaps
    ]
    first = ", ".join(f"{name} {shown(value)}" for name, value in story.first.items())
    about = (
        "Real flights of 2013. The first model that passed the gates was judged on the last weeks of "
        f"{day(story.start - 1):%B} ({first}), learned from what was earlier, and went on in the shadow, "
        "frozen: it is the control. Each month's flights were sent to the real server over HTTP; what came "
        "true arrived a day later. After each month the monitor looked, and the evidence decided "
        "whether to learn again. A candidate learned from all but the newest weeks whose outcomes were "
        "known, and was compared on those with the champion, the version that is served: the gates, checks "
        "with limits in params.yaml, crowned or refused it."
    )
    season = (
        "Drift alone is a question: that a month differs from what was learned. Decay, which outcomes show, "
        "new data, new code or the time that has passed may justify another model."
    )
    pictures = [
        picture(metric, f"{story.metric}, by month", 3.4),
        picture(gain, "Gain over the frozen model, with 95 % intervals (days resampled)", 3.4),
        picture(calibration, "Calibration error"),
        picture(drift, "Share of columns that drifted"),
    ]
    parts = [
        STYLE,
        f"<p><b>What the loop was worth.</b> {escape(worth(story))}.</p>",
        f"<p>{escape(about)}</p>",
        f"<main>{''.join(pictures)}</main>",
        "<h2>Month by month</h2>",
        table(heads, lines),
        f'<p class="quiet">{season}</p>',
        "<h2>Incidents, each in its first window</h2>",
        table(
            (
                "what",
                "month",
                "verdict",
                "what the alarm said",
                "the same rule on the month as it was",
                "",
            ),
            happened,
        ),
    ]
    if naive:
        columns = ("month", "naive candidate", "champion", "frozen", "verdict", "why")
        parts += [
            "<h2>A naive sliding window</h2>",
            "<p>A candidate that learned from the last three months alone, compared on the newest weeks.</p>",
            table(columns, naive),
        ]
    parts += [
        "<h2>Requests during retrainings and changes of the model</h2>",
        table(("what", "requests", "not answered", "versions that answered"), swaps),
        "<h2>Look further</h2>",
        f"<p>{link('reports/monitor/index.html', 'What the monitor found in each month')}, "
        f"{link('incidents/reports/monitor/index.html', 'in the incidents')}, "
        f"{link('reports/retrain/summary.md', 'the last retraining')}, "
        f"{link('alerts.jsonl', 'the alerts')}.</p>",
    ]
    files.write_page(PAGE, "Flights of 2013, month by month", *parts)
    return PAGE
