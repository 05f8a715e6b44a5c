"""In which formats the values of a column are times."""

import re
from contextlib import suppress
from datetime import datetime
from itertools import product

from mlops_loop.data.cast import as_text, time_in, trimmed
from mlops_loop.data.profile import NUMBERS, ColumnProfile, Profile

DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y"),
    *("%m-%d-%Y", "%d-%m-%Y", "%m/%d/%y", "%d/%m/%y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y"),
    *("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%b %Y", "%a %d %b %Y", "%a, %d %b %Y"),
)
TIMES = (
    *("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S.%f", " %H:%M:%S,%f"),
    *(" %H:%M %Z", " %H:%M:%S %Z", " %H:%M:%S %z", "T%H:%M:%S.%f", " %H.%M", ":%H:%M:%S %z"),
)
FORMATS: list[str | None] = [None, *(day + time for day, time in product(DAYS, TIMES))]
NUMBERED = {  # formats of times that are written as whole numbers, and the numbers of 1990 and 2100
    "%Y%m%d": (19000101, 21001231),
    "%Y%m%d%H": (1990010100, 2100123123),
    "%Y%m%d%H%M": (199001010000, 210012312359),
    "%Y%m%d%H%M%S": (19900101000000, 21001231235959),
    "epoch s": (631152000, 4102444800),
    "epoch ms": (631152000000, 4102444800000),
    "epoch us": (631152000000000, 4102444800000000),
    "epoch ns": (631152000000000000, 4102444800000000000),
    "%Y%m": (199001, 210012),
    "excel": (32874, 73051),
}


def time_formats(profile: Profile, known: ColumnProfile) -> list[str | None]:
    """Return those formats in which all values of a column are times; [None] if they are times."""
    if known.kind == "time":
        return [None]
    if known.kind not in NUMBERS or not known.filled:
        return []
    candidates = FORMATS if known.kind == "text" else []
    if 0 < known.numbers == known.filled:
        candidates = [
            form
            for form, (low, high) in NUMBERED.items()
            if known.whole and low <= known.low and known.high <= high
        ]
        candidates = [None, *candidates] if "%Y%m%d" in candidates else candidates
    shown = f"SELECT {trimmed(as_text('v', known.kind))} FROM ({known.texts}) LIMIT 5"
    first = [value for (value,) in profile.table.connection.sql(shown).fetchall()]
    candidates = [form for form in candidates if all(may_fit(form, value) for value in first)]
    for some in (" LIMIT 5000", ""):
        fits = [f"bool_and({time_in('v', known.kind, form)} IS NOT NULL)" for form in candidates]
        fine = profile.ask(fits, f"({known.texts}{some})") if fits else ()
        candidates = [form for form, fits in zip(candidates, fine, strict=True) if fits]
    return candidates


def may_fit(form: str | None, value: str) -> bool:
    """Return whether a text may be a time in a format: DuckDB takes seconds for all of them."""
    if form is None or form.startswith(("epoch", "excel")):
        return True
    if "%z" in form.lower():
        return bool(re.search(r"([A-Za-z]|[-+][0-9]{2}:?[0-9]{0,2})$", value))
    with suppress(ValueError):
        return bool(datetime.strptime(value, form))
    return False


def unreadable_time(profile: Profile, known: ColumnProfile) -> str:
    """Return the first text that is no time in the format that most of the first ones have."""
    first = f"({known.texts} LIMIT 10000)"
    forms = FORMATS if known.kind == "text" else [None]
    counts = profile.ask([f"count({time_in('v', known.kind, form)})" for form in forms], first)
    best = time_in("v", known.kind, forms[counts.index(max(counts))])
    asked = f"SELECT v::VARCHAR, r FROM {first} WHERE {best} IS NULL ORDER BY r LIMIT 1"
    found = profile.table.connection.sql(asked).fetchall()
    return f"{found[0][0]!r} in row {found[0][1]:,}" if found else "its values"
