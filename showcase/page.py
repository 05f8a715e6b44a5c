"""The parts of an HTML page that needs nothing else to be shown: tables, badges, charts as SVG."""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from html import escape
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"now": "#1f6feb", "before": "#8b949e", "limit": "#cf222e", "estimate": "#bf8700"}
BADGES = {"drift": "#9a6700", "quality": "#bc4c00", "decay": "#cf222e"}
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2328; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem }
figure { margin: 0 } svg { max-width: 100%; height: auto }
h2 { margin: 2rem 0 .5rem; font-size: 1.2rem }
table { border-collapse: collapse; margin: 1rem 0 } .scroll { overflow-x: auto }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d9e2ec; text-align: left }
td:nth-child(2), td a, .badge { white-space: nowrap } .quiet { color: #59636e }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.badge { border-radius: 1em; color: #fff; padding: .1em .7em; font-size: .85em; margin-right: .3em }
@media (max-width: 40rem) { main { grid-template-columns: 1fr } }
"""


class Markup(str):
    """Text that is HTML already."""


Cell = Markup | str | int | float


def link(path: str, text: str) -> Markup:
    return Markup(f'<a href="{escape(path)}">{escape(text)}</a>')


def badges(verdicts: Iterable[str]) -> Markup:
    styled = {name: BADGES[name] for name in verdicts} or {"nothing to report": "#1a7f37"}
    return Markup(
        "".join(
            f'<span class="badge" style="background:{colour}">{name}</span>'
            for name, colour in styled.items()
        )
    )


def format_value(value: Cell) -> str:
    """Return a value as text, numbers in few digits."""
    if isinstance(value, int) or (isinstance(value, float) and value >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return an HTML table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def cell(value: Cell) -> str:
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    kind = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{kind}>{escape(format_value(value))}</td>"


def chart(draw: Callable[[Axes], None], title: str, height: float = 2.6) -> str:
    """Return a chart as SVG text, with its title; `draw` gets the axes."""
    figure = Figure(figsize=(6.2, height), layout="tight")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
    text = StringIO()
    look = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    with mpl.rc_context(look):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f"<figure>{with_own_ids(body, title)}</figure>"


def with_own_ids(svg: str, title: str) -> str:
    """Return an SVG whose ids no other one on the page has, named for those who do not see it."""
    mark = sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'((?:id|xlink:href|clip-path)="(?:#|url\(#)?)(?=\w)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
