"""Numbers, shares and times as people write them."""

from collections.abc import Mapping
from datetime import datetime
from math import floor, isfinite, log10

NONE = "–"
RATES = {"positive_rate", "predicted_rate", "accuracy"}  # metrics that are shares of the rows
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in so many significant digits: 6,000, 13.81, 3.3 × 10⁻⁷."""
    if value is None or not isfinite(value):
        return NONE
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return f"{value:,.{digits}g}"


def percent(value: float | None) -> str:
    """Return a share as 22.1 %, 0.18 % or 0.002 %: a small one keeps a digit that counts."""
    if value is None or not isfinite(value):
        return NONE
    share = 100 * value
    places = 1
    if 0 < abs(share) < 1:
        places = (abs(share) >= 0.1) - floor(log10(abs(share)))
    text = f"{share:.{places}f}"
    return f"{text.rstrip('0').rstrip('.')} %"


def day(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y}"


def moment(time: datetime | str) -> str:
    """Return a time, which may be ISO 8601, as 28 Nov 2026 20:28 UTC."""
    found = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{day(found)} {found:%H:%M}" + (" UTC" if found.tzinfo else "")


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def in_words(name: str, value: object) -> object:
    """Return a metric's value as a table shows it: shares of the rows are per cents."""
    if name in RATES and isinstance(value, int | float):
        return percent(value)
    return value


def as_cells(metrics: Mapping[str, object]) -> list[object]:
    return [in_words(name, value) for name, value in metrics.items()]
