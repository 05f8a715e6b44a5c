"""Charts: SVG that stands in a page, in the page's colours."""

import re
from collections.abc import Callable
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
FIGURE = Markup('<figure><figcaption>{title}</figcaption>{svg}<p class="hint">{note}</p></figure>')


def chart(draw: Callable[[Axes], None], title: str, note: str = "", height: float = 2.9) -> Markup:
    """Return a figure with its title; `draw` gets the axes."""
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    # With ids that no other chart on the page has.
    look = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    text = StringIO()
    with matplotlib.rc_context(look):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    svg = text.getvalue()
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    named = svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(title), 1)
    markup = Markup(named)  # noqa: S704 - Matplotlib escapes texts
    return FIGURE.format(title=title, note=note, svg=markup)
