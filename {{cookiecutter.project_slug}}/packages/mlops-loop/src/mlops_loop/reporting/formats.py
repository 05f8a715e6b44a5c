"""Numbers, shares and times as people write them; templates have these functions as filters."""

import re
from collections.abc import Mapping
from datetime import datetime
from math import isfinite

NONE = "–"
FIGURE = re.compile(r"[<>=]* ?-?[\d,.]+(e-\d+)?( %)?|–")
RATES = {"positive_rate", "predicted_rate", "accuracy"}  # metrics that are shares of the rows


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in so many significant digits: 6,000, 13.81, 3.3e-07."""
    if value is None or not isfinite(value):
        return NONE
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """Return a share as 22.1 % or 0.18 %."""
    return NONE if value is None or not isfinite(value) else f"{number(100 * value, 3)} %"


def day(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y}"


def moment(time: datetime | str) -> str:
    """Return a time, which may be ISO 8601, as 28 Nov 2026 20:28 UTC."""
    found = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{day(found)} {found:%H:%M}" + (" UTC" if found.tzinfo else "")


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def cell(value: object) -> object:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if value is None or isinstance(value, int | float) else value


def is_figure(value: object) -> bool:
    """Return whether a value is shown as a number, such as 22.1 %."""
    if isinstance(value, str):
        return bool(FIGURE.fullmatch(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_words(name: str, value: object) -> object:
    """Return a metric's value as a table shows it: shares of the rows are per cents."""
    return percent(value) if name in RATES and isinstance(value, int | float) else value


def as_cells(metrics: Mapping[str, object]) -> list[object]:
    return [in_words(name, value) for name, value in metrics.items()]
