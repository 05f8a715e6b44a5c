"""Charts in SVG, which need no script: lines and bands through values in 0 to 1.

Coordinates are numbers of our own, so nothing in a path needs to be escaped; all texts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

WIDTH = 300  # of a chart, in units of its own
HEIGHT = 80
Values = Sequence[float | None]


def line(xs: Sequence[float], ys: Values, css_class: str) -> str:
    """Return a line with gaps where there are no values; a lone one is a dot."""
    runs: list[list[str]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if y is not None and isfinite(y):
            runs[-1].append(place(x, y))
        elif runs[-1]:
            runs.append([])
    parts = ["M" + "L".join(run if len(run) > 1 else run * 2) for run in runs if run]
    return f'<path class="{css_class}" d="{" ".join(parts)}"></path>' if parts else ""


def band(xs: Sequence[float], low: Values, high: Values) -> str:
    """Return the area between two lines, where both have values."""
    points = [
        (x, a, b) for x, a, b in zip(xs, low, high, strict=True) if a is not None and b is not None
    ]
    if len(points) < 2:
        return ""
    edge = [place(x, b) for x, _, b in points]
    edge += [place(x, a) for x, a, _ in reversed(points)]
    return f'<path class="band" d="M{"L".join(edge)}Z"></path>'


def place(x: float, y: float) -> str:
    return f"{x * WIDTH:.1f} {(1 - y) * HEIGHT:.1f}"


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the newest value, and what its edges stand for."""

    title: str
    now: str  # HTML
    label: str  # for those who do not see it
    paths: str
    start: str
    end: str
    bottom: str
    top: str
    legend: str = ""  # HTML

    def html(self) -> str:
        box = f'viewBox="0 -2 {WIDTH} {HEIGHT + 4}" preserveAspectRatio="none"'
        svg = f'<svg {box} role="img" aria-label="{escape(self.label)}">{self.paths}</svg>'
        return (
            f"<figure><figcaption>{escape(self.title)}</figcaption><p class='now'>{self.now}</p>"
            f"<div class='plot'><span>{escape(self.top)}</span>{svg}"
            f"<span>{escape(self.bottom)}</span></div><p class='hint ends'>"
            f"<span>{escape(self.start)}</span><span>{escape(self.end)}</span></p>"
            f"{self.legend}</figure>"
        )


def legend(names: dict[str, str]) -> str:
    """Return the legend of several lines, by their CSS classes."""
    if len(names) < 2:
        return ""
    parts = (f"<span><i class='{key}'></i>{escape(name)}</span>" for key, name in names.items())
    return f"<p class='hint legend'>{''.join(parts)}</p>"
