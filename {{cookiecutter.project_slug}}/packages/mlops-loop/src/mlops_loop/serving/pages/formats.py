"""Numbers and times as the status page shows them."""

from datetime import UTC, datetime
from math import isfinite


def format_number(value: float | None, unit: str = "") -> str:
    """Return shares as percentages, and other numbers with three digits."""
    if value is None or not isfinite(value):
        return "-"
    if unit == "%":
        return f"{100 * value:.3g} %"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def format_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def format_age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now" if seconds < 60 else "a minute ago"
