"""Charts: SVG that stands in a page, in the page's colours."""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import StringIO

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
Values = Sequence[float | None]
FIGURE = Markup('<figure><figcaption>{title}</figcaption>{svg}<p class="hint">{note}</p></figure>')


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


def label_ticks(axes: Axes, labels: Sequence[str], name: str) -> list[int]:
    """Label the x axis, with few labels if they are many; return their places."""
    places = list(range(len(labels)))
    step = max(1, len(labels) // 7)
    axes.set_xticks(places[::step], labels[::step])
    axes.set_xlabel(name)
    axes.margins(x=0.05)
    return places


def draw_line(axes: Axes, values: Values, style: str, colour: str, label: str = "") -> None:
    """Draw the values that there are, at their places."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    places = [place for place, _ in known]
    drawn = [value for _, value in known]
    axes.plot(places, drawn, style, color=COLOURS[colour], label=label or None, markersize=5)


def is_trend(values: Values) -> bool:
    return sum(value is not None for value in values) >= FEWEST


def draw_diagonal(axes: Axes, values: Sequence[float]) -> None:
    ends = [min(values), max(values)]
    axes.plot(ends, ends, ":", color=COLOURS["before"])
