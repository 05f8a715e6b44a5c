"""Charts: SVG that stands in a page."""

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from html import escape
from io import StringIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"now": "#1f6feb", "before": "#8b949e", "limit": "#cf222e", "estimate": "#bf8700"}


def chart(draw: Callable[[Axes], None], title: str, height: float = 2.6) -> str:
    """Return a figure with its title; `draw` gets the axes."""
    figure = Figure(figsize=(6.2, height), layout="tight")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
    text = StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f"<figure>{with_own_ids(body, title)}</figure>"


def with_own_ids(svg: str, title: str) -> str:
    """Return an SVG whose ids no other one on the page has, with a title for screen readers."""
    mark = sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'((?:id|xlink:href|clip-path)="(?:#|url\(#)?)(?=\w)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def label_ticks(axes: Axes, labels: list[str]) -> list[int]:
    """Label the x axis, with few labels if they are many; return their places."""
    places = list(range(len(labels)))
    step = max(1, len(labels) // 8)
    axes.set_xticks(places[::step], labels[::step], fontsize=8)
    axes.tick_params(labelsize=8)
    return places


def present(places: list[int], values: Iterable[float | None]) -> tuple[list[int], list[float]]:
    """Return the values that there are, and their places."""
    pairs = [
        (place, value) for place, value in zip(places, values, strict=True) if value is not None
    ]
    return [place for place, _ in pairs], [value for _, value in pairs]
