"""Markdown in which texts of the contract and values of the data are shown as they are."""

import re
from typing import Any

import numpy as np
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


def table(frame: pd.DataFrame, digits: int = 4) -> str:
    """Return a table as Markdown; fractions are rounded to `digits`."""
    right = [frame[name].map(is_number).all() for name in frame]
    lines = [[plain(name) for name in frame], ["---:" if number else "---" for number in right]]
    lines += [[cell(value, digits) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def cell(value: Any, digits: int) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        counted = value.is_integer() and abs(value) > 1  # not a share of 1.000
        return "" if np.isnan(value) else f"{value:,.0f}" if counted else f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else plain(value)
