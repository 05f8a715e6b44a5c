"""The four charts of the year."""

from matplotlib.axes import Axes

from showcase.page import COLOURS, chart
from showcase.story import Story

MARKS = {"promoted": ("^", "#1a7f37"), "refused": ("x", "#cf222e")}


def charts(story: Story) -> list[str]:
    """Return the charts as SVG texts."""
    return [
        chart(lambda axes: metric_by_month(axes, story), f"{story.metric}, by month", 3.4),
        chart(
            lambda axes: gain_by_month(axes, story),
            "Gain over the frozen model, with 95 % intervals (days resampled)",
            3.4,
        ),
        chart(lambda axes: calibration_by_month(axes, story), "Calibration error"),
        chart(lambda axes: drift_by_month(axes, story), "Share of columns that drifted"),
    ]


def month_axis(axes: Axes, story: Story) -> list[int]:
    """Label the x axis with the months; return their places."""
    places = list(range(len(story.months)))
    axes.set_xticks(places, [month.name[5:] for month in story.months])
    axes.tick_params(labelsize=8)
    return places


def two_lines(axes: Axes, story: Story, champion: list[float], frozen: list[float]) -> None:
    places = month_axis(axes, story)
    axes.plot(places, champion, "o-", color=COLOURS["now"], label="champion")
    axes.plot(places, frozen, "o--", color=COLOURS["before"], label="frozen first model")


def metric_by_month(axes: Axes, story: Story) -> None:
    found = [month.comparison for month in story.months]
    two_lines(axes, story, [each.champion for each in found], [each.frozen for each in found])
    for place, month in enumerate(story.months):
        if month.retrain and (mark := MARKS.get(month.retrain.result)):
            bottom = axes.get_xaxis_transform()
            axes.plot(place + 0.5, 0.04, mark[0], color=mark[1], transform=bottom)
    for name, (form, colour) in MARKS.items():
        axes.plot([], [], form, color=colour, label=f"a candidate {name} after the month")
    names = [month.name for month in story.months]
    for naive in story.naive:
        place = names.index(naive.month)
        axes.plot(place, naive.candidate, "v", color=COLOURS["estimate"])
    if story.naive:
        label = "naive candidate, on its test window"
        axes.plot([], [], "v", color=COLOURS["estimate"], label=label)
    below = (0.5, -0.1)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=below)


def gain_by_month(axes: Axes, story: Story) -> None:
    for place, month in zip(month_axis(axes, story), story.months, strict=True):
        found = month.comparison
        axes.vlines(place, found.low, found.high, color=COLOURS["now"], linewidth=3, alpha=0.3)
        axes.plot(place, found.gain, "o", color=COLOURS["now"])
    axes.axhline(0, color=COLOURS["before"], linewidth=1)


def calibration_by_month(axes: Axes, story: Story) -> None:
    found = [month.comparison for month in story.months]
    champion = [each.champion_error for each in found]
    two_lines(axes, story, champion, [each.frozen_error for each in found])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)


def drift_by_month(axes: Axes, story: Story) -> None:
    shares = [month.monitor.drift.share if month.monitor.drift else 0 for month in story.months]
    axes.bar(month_axis(axes, story), shares, color=COLOURS["estimate"])
    axes.set_ylim(0, 1)
