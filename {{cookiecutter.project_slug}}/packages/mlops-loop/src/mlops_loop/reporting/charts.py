"""Charts: SVG that stands in a page, in the page's colours."""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import StringIO
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"now": "#1f6feb", "before": "#8b949e", "limit": "#cf222e", "estimate": "#bf8700"}
# What a page's stylesheet calls them: they differ between the light and the dark scheme.
VARIABLES = {
    COLOURS["now"]: "var(--accent)",
    COLOURS["before"]: "var(--edge)",
    COLOURS["limit"]: "var(--bad)",
    COLOURS["estimate"]: "var(--poor)",
    "#1a7f37": "var(--good)",
    "#000000": "var(--text)",
}
FEWEST = 3  # points of a trend: fewer are a table
FIGURE = Markup('<figure><figcaption>{title}</figcaption>{svg}<p class="hint">{note}</p></figure>')


class Line(NamedTuple):
    label: str
    values: Sequence[float | None]  # a point is drawn for each that is known
    colour: str = "now"


def chart(draw: Callable[[Axes], None], title: str, note: str = "", height: float = 2.9) -> Markup:
    """Return a figure with its title; `draw` gets the axes."""
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    text = StringIO()
    look = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    with matplotlib.rc_context(look):
        nothing = {"Date": None, "Creator": None}
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return FIGURE.format(title=title, note=note, svg=with_own_ids(svg, title))


def with_own_ids(svg: str, title: str) -> Markup:
    """Return an SVG whose ids no other one on the page has, with a name for screen readers."""
    mark = sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'((?:id|xlink:href|clip-path)="(?:#|url\(#)?)(?=\w)', rf"\g<1>{mark}-", svg)
    name = Markup(' role="img" aria-label="{}"').format(title)
    return Markup(svg.replace("<svg", f"<svg{name}", 1))  # noqa: S704 - Matplotlib escapes texts


def trend(
    title: str,
    windows: Sequence[str],
    lines: Sequence[Line],
    reference: Line | None = None,
    intervals: Sequence[tuple[float | None, float | None]] = (),
) -> Markup | None:
    """Return a chart over windows; None for too few points. `intervals` are of the first line."""
    if not any(sum(value is not None for value in line.values) >= FEWEST for line in lines):
        return None

    def draw(axes: Axes) -> None:
        step = max(1, len(windows) // 7)
        axes.set_xticks(range(0, len(windows), step), windows[::step])
        axes.set_xlabel("start of the window")
        for place, (low, high) in enumerate(intervals):
            if low is not None and high is not None:
                axes.vlines(place, low, high, COLOURS["now"], linewidth=3, alpha=0.3)
        for line in filter(None, [*lines, reference]):
            known = {place: one for place, one in enumerate(line.values) if one is not None}
            style = "--" if line is reference else "o-"
            colour = COLOURS[line.colour]
            points = (list(known), list(known.values()))
            axes.plot(*points, style, color=colour, label=line.label, markersize=5)
        if reference:
            axes.legend(fontsize=8, frameon=False)
        if not intervals:
            axes.set_ylim(bottom=0)

    return chart(draw, title)
