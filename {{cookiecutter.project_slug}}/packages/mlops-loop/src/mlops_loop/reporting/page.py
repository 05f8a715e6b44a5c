"""Pages: HTML that needs nothing else to be shown."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from mlops_loop.base.files import write_text

Cell = str | float | bool | None
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem }
table { border-collapse: collapse; border: 0; margin: 1rem 0 } img { max-width: 49% }
th, td { padding: .3rem .8rem; border: 0; border-bottom: 1px solid #d9e2ec; text-align: left }
td:nth-child(2) { white-space: nowrap }"""
CHART_STYLE = """:root { color-scheme: light } body { color: #1f2328; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem }
figure { margin: 0 } svg { max-width: 100%; height: auto }
h2 { margin: 2rem 0 .5rem; font-size: 1.2rem }
.badge { border-radius: 1em; color: #fff; padding: .1em .7em; font-size: .85em; margin-right: .3em }
.scroll { overflow-x: auto }
td a, .badge { white-space: nowrap } .quiet { color: #59636e } tr.alarm td { background: #fff1e5 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
@media (max-width: 40rem) { main { grid-template-columns: 1fr } }"""


class Markup(str):
    """Text that is HTML already: it is not escaped."""

    __slots__ = ()


def write_page(path: Path, title: str, *parts: str, style: str = "") -> None:
    """Write an HTML page that needs nothing else to be shown; `parts` are HTML themselves."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}\n{style}</style>'
    page = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    write_text(
        path, f'<!doctype html><html lang="en"><head>{head}</head><body>{page}</body></html>'
    )


def format_value(value: Cell) -> str:
    """Return a value in few digits; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    is_marked: Callable[[int], bool] | None = None,
) -> str:
    """Return an HTML table; rows that are marked, by their number, stand out."""
    lines = []
    for number, row in enumerate(rows):
        mark = ' class="alarm"' if is_marked and is_marked(number) else ""
        lines.append(f"<tr{mark}>{''.join(map(table_cell, row))}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def table_cell(value: Cell) -> str:
    kind = ' class="number"' if isinstance(value, int | float) else ""
    text = format_value(value)
    return f"<td{kind}>{text if isinstance(value, Markup) else escape(text)}</td>"


def badge(text: str, colour: str) -> str:
    return f'<span class="badge" style="background:{colour}">{escape(text)}</span>'
