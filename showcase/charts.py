"""The four charts of the year; promotions and incidents are marked in each."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from showcase.page import charts as loop
from showcase.story import Story, first_day

COLOURS: dict[str, str] = loop.COLOURS
GOOD = "#1a7f37"
FEWEST = 3  # months of a chart: the table shows fewer
Draw = Callable[[Axes], None]


def charts(story: Story) -> list[Any]:
    """Return the charts as markup; none of the short showcase."""
    if len(story.months) < FEWEST:
        return []
    drawn: dict[str, tuple[Draw, str]] = {
        f"{story.metric} by month": (
            lambda axes: metric_by_month(axes, story),
            "Marks at the bottom: what the gates said of the candidate after the month.",
        ),
        "Gain over the frozen model": (
            lambda axes: gain_by_month(axes, story),
            "With 95 % intervals, from resampled days.",
        ),
        "Calibration error": (
            lambda axes: calibration_by_month(axes, story),
            "Beyond the limit the monitor says decay.",
        ),
        "Columns that drifted": (
            lambda axes: drift_by_month(axes, story),
            "A triangle: an incident was injected into a copy of the month, and caught.",
        ),
    }
    return [loop.chart(draw, title, note, 3.2) for title, (draw, note) in drawn.items()]


def month_axis(axes: Axes, story: Story) -> list[int]:
    """Label the x axis with the months, and mark the promotions; return the months' places."""
    names = [f"{first_day(int(month.name[5:])):%b}" for month in story.months]
    places: list[int] = list(range(len(names)))
    axes.set_xticks(places, names)
    axes.set_xlabel("month of 2013")
    axes.set_xlim(-0.6, len(names) - 0.4)
    for place, month in enumerate(story.months):
        if month.retrain and month.retrain.result == "promoted":
            axes.axvline(place + 0.5, color=GOOD, linewidth=1, linestyle=":")
    return places


def two_lines(axes: Axes, story: Story, champion: list[float], frozen: list[float]) -> None:
    places = month_axis(axes, story)
    axes.plot(places, champion, "o-", color=COLOURS["now"], label="champion")
    axes.plot(places, frozen, "o--", color=COLOURS["before"], label="frozen first model")


def metric_by_month(axes: Axes, story: Story) -> None:
    found = [month.comparison for month in story.months]
    two_lines(axes, story, [each.champion for each in found], [each.frozen for each in found])
    bottom = axes.get_xaxis_transform()
    marks = {"promoted": ("^", GOOD), "refused": ("x", COLOURS["limit"])}
    for result, (form, colour) in marks.items():
        places = [
            place + 0.5
            for place, month in enumerate(story.months)
            if month.retrain and month.retrain.result == result
        ]
        label = f"candidate {result}"
        axes.plot(places, [0.03] * len(places), form, color=colour, transform=bottom, label=label)
    names = [month.name for month in story.months]
    if story.naive:
        places = [names.index(naive.month) for naive in story.naive]
        values = [naive.candidate for naive in story.naive]
        axes.plot(places, values, "v", color=COLOURS["estimate"], label="naive candidate")
    axes.set_ylabel(story.metric)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def gain_by_month(axes: Axes, story: Story) -> None:
    for place, month in zip(month_axis(axes, story), story.months, strict=True):
        found = month.comparison
        axes.vlines(place, found.low, found.high, color=COLOURS["now"], linewidth=3, alpha=0.3)
        axes.plot(place, found.gain, "o", color=COLOURS["now"])
    axes.axhline(0, color=COLOURS["before"], linewidth=1)
    axes.set_ylabel(f"gain in {story.metric}")


def calibration_by_month(axes: Axes, story: Story) -> None:
    found = [month.comparison for month in story.months]
    champion = [each.champion_error for each in found]
    two_lines(axes, story, champion, [each.frozen_error for each in found])
    axes.axhline(story.max_calibration_error, color=COLOURS["limit"], linestyle="--", label="limit")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("calibration error")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def drift_by_month(axes: Axes, story: Story) -> None:
    shares = [
        100 * month.monitor.drift.share if month.monitor.drift else 0 for month in story.months
    ]
    axes.bar(month_axis(axes, story), shares, color=COLOURS["estimate"])
    names = [month.name for month in story.months]
    places = [names.index(fault.month) for fault in story.faults if fault.alarm]
    top = 1.25 * max(shares) or 1
    axes.plot(places, [0.95 * top] * len(places), "v", color=COLOURS["limit"])
    axes.set_ylim(0, top)
    axes.set_ylabel("columns that drifted, %")
