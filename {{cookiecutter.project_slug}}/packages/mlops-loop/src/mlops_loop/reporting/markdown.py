"""Markdown: texts and values that are shown as they are, tables, and charts of Mermaid.

GitHub and GitLab draw the charts.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the way back to a former champion needs no pandas
    import pandas as pd


def plain(text: object) -> str:
    """Return a text so that Markdown shows it as it is: no markup, link or HTML in it counts."""
    special = r"[\\`*\[\]<&|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # not the _ within a name
    return re.sub(special, r"\\\g<0>", " ".join(str(text).split()))


def paragraph(text: object) -> str:
    """Return a text as `plain` does, to begin a line with: no heading, list or quotation."""
    return re.sub(r"^(\d*)([-+=#>.)])", r"\1\\\2", plain(text))


def code(text: object) -> str:
    """Return a text that may stand between backticks."""
    return " ".join(str(text).split()).replace("`", "'")


def table(frame: "pd.DataFrame", digits: int = 4) -> str:
    """Return a table as Markdown; fractions are rounded to `digits`."""
    right = [frame[name].map(is_number).all() for name in frame]
    lines = [[plain(name) for name in frame], ["---:" if number else "---" for number in right]]
    lines += [[cell(value, digits) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def cell(value: object, digits: int) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        counted = value.is_integer() and abs(value) > 1  # not a share of 1.000
        return "" if np.isnan(value) else f"{value:,.0f}" if counted else f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else plain(value)


def format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def text_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def line_chart(
    title: str,
    axis: str,
    labels: list[str],
    lines: list[list[float]],
    span: tuple[float, float] | None = None,
) -> str:
    """Return a chart; its y axis holds all values with some room, if no `span` is given."""
    low, high = span or padded_span(lines)
    quoted = ", ".join(f'"{label}"' for label in labels)
    parts = [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f"    x-axis [{quoted}]",
        f'    y-axis "{axis}" {format_number(low)} --> {format_number(high)}',
        *(f"    line [{', '.join(map(format_number, values))}]" for values in lines),
        "```",
    ]
    return "\n".join(parts)


def padded_span(lines: list[list[float]]) -> tuple[float, float]:
    low = min(map(min, lines))
    high = max(map(max, lines))
    room = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room
