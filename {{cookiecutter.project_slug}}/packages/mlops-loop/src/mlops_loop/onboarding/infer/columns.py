"""Propose what schema.yaml says of a column. Change `propose` first."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log10

from mlops_loop.contract.schema import LARGEST, Column
from mlops_loop.data.cast import CERTAIN, PLAIN, canonical, number_in
from mlops_loop.data.profile import WHOLE, ColumnProfile, Profile
from mlops_loop.onboarding.infer.times import time_formats

MAX_CATEGORIES = 100  # of a text column; of one with more, only the most frequent are named
FREQUENT = 50  # so many are named,
SHARE = 0.8  # if they hold this share of the rows
EMPTY = 0.95  # share of missing values from which on a column is ignored
NEARLY = 0.98  # share of different texts from which on they are ids
MOSTLY = 0.5  # share of different whole numbers from which on a name like `order_no` is an id's
DENSE = 0.1  # share of their range that different whole numbers fill, if they count the rows
SLACK = 0.1  # of the range, on either side
FEW = 3  # rows with a text among numbers from which on it is a category of its own, such as 3+
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|#")
ID_WORDS = {"id", "ids", "uuid", "guid", "key", "index", "idx", "rowid", "rownum", "pk", "sk"}
LAST_WORDS = {"no", "nr", "num", "number", "nummer", "row", "seq", "sequence", "serial", "#"}
ROW = re.compile(
    r"(?i)(unnamed: ?\d+|column ?1|x|#|level_\d+|__index_level_\d+__|index|\.\.\.1|v1)"
)
TIME_WORDS = {
    *("date", "time", "day", "datum", "zeit", "tag", "when", "timestamp", "ts", "at", "on", "dt"),
    *("datetime", "fecha", "epoch", "created", "updated", "modified"),
}
YEAR_WORDS = {"year", "yr", "jahr", "annee", "ano"}


@dataclass(frozen=True)
class Proposal:
    """What schema.yaml is to say of a column, and the reason."""

    column: Column
    reason: str
    loud: bool = False  # whether the user must look at it: it might have been a feature

    def with_keys(self, reason: str, **keys: object) -> "Proposal":
        """Return the proposal with other keys of the column, and another reason."""
        return Proposal(self.column.model_copy(update=keys), reason, self.loud)


def ignored(kind: str, reason: str, loud: bool = False) -> Proposal:
    return Proposal(Column.model_validate({"type": kind, "role": "ignored"}), reason, loud)


def used(reason: str, **keys: object) -> Proposal:
    return Proposal(Column.model_validate(keys), reason)


def time(name: str, written: str = "") -> Proposal:
    return ignored("timestamp", f"a time{written}: to split by it, give --timestamp {name!r}")


def propose(seen: ColumnProfile, profile: Profile) -> Proposal:
    """Return the proposal for a column that is neither target nor timestamp."""
    empty = 1 - seen.filled / seen.rows
    if empty >= EMPTY:
        share = "no values" if empty == 1 else f"{empty:.1%} of the values are missing"
        return ignored("category", share)
    if seen.kind == "other":
        return ignored("category", f"values of type {seen.type} are not supported")
    if seen.kind == "time":
        return time(seen.name)
    if seen.different == 1 and not empty and seen.counts:
        return ignored("category", f"always {next(iter(seen.counts))}")
    found = propose_by_values(seen, profile)
    if found.column.role == "ignored":
        return found
    stands = seen.stand_ins
    if found.column.type in ("category", "id"):  # there fewer signs stand for a missing value
        stands = {value: n for value, n in stands.items() if value.strip() in CERTAIN}
    reason = found.reason
    if stands:
        reason += (
            f"; missing where {', '.join(f'{value!r} ({n:,})' for value, n in stands.items())}"
        )
    present = seen.filled + sum(seen.stand_ins.values()) - sum(stands.values())
    return found.with_keys(reason, nullable=True) if present < seen.rows else found


def propose_by_values(seen: ColumnProfile, profile: Profile) -> Proposal:
    if seen.number:
        return propose_number(seen, profile)
    if seen.comma:
        return propose_comma(seen, profile)
    if wrong := misspelt(seen):
        return ignored("category", wrong, loud=True)
    return propose_text(seen, profile)


def words(name: str) -> list[str]:
    """Return the words of a name: `order_no`, `orderNo` and `Order No.` have the same."""
    return [word.lower() for word in WORDS.findall(name)]


def propose_number(seen: ColumnProfile, profile: Profile) -> Proposal:
    kind = "integer" if seen.whole else "number"
    largest = max(-seen.low, seen.high)
    if form := numbered_time(seen, profile):
        return time(seen.name, f", written as {form}")
    if why := is_id(seen):
        return used(why, role="id", type="id" if largest > WHOLE else kind)
    if largest > LARGEST:
        return ignored(kind, f"values as large as {largest:.1e} are beyond float32")
    if seen.whole and seen.kind == "number" and largest > WHOLE:
        return ignored("category", "whole numbers beyond 2^53 are codes, and these repeat")
    reason = f"seen: {seen.low:.8g} to {seen.high:.8g}"
    found = limits(seen.low, seen.high, seen.whole)
    year = seen.whole and YEAR_WORDS.intersection(words(seen.name))
    if year and 1900 <= seen.low <= seen.high <= 2100:
        return used(f"{reason}; a year grows: no maximum", type=kind, minimum=found["minimum"])
    return used(reason, type=kind, **found)


def called_id(name: str) -> bool:
    named = words(name)
    by_word = ID_WORDS.intersection(named) or LAST_WORDS.intersection(named[-1:])
    return bool(by_word or ROW.fullmatch(name.strip()))


def is_id(seen: ColumnProfile) -> str:
    """Return why numbers tell which row it is, and not what it is like; "" if they do not."""
    if seen.is_index and seen.unique:
        return "the file calls it the index of its rows"
    if not seen.whole:
        return ""
    spread = seen.high - seen.low + 1
    largest = max(-seen.low, seen.high)
    if largest > WHOLE and (seen.kind == "number" or spread < largest):
        differ = "different in each row" if seen.unique else "mostly different"
        return f"whole numbers beyond 2^53, {differ}" if seen.different > seen.rows / 2 else ""
    if ROW.fullmatch(seen.name.strip()) and seen.unique:
        return "different in each row, and called as programs call a row's number"
    if called_id(seen.name) and (seen.unique or seen.different > MOSTLY * seen.filled > 50):
        return "different in each row, and an id by its name" * seen.unique or "an id by its name"
    if counts_rows(seen):
        return "different in each row, as if they count the rows"
    return ""


def counts_rows(seen: ColumnProfile) -> bool:
    """Return whether whole numbers are different in each row, and close to each other."""
    return seen.unique and seen.rows >= DENSE * (seen.high - seen.low + 1)


def numbered_time(seen: ColumnProfile, profile: Profile) -> str:
    """Return the format of times that are written as whole numbers; "" if these are none."""
    if not seen.whole or called_id(seen.name):
        return ""
    named = TIME_WORDS.intersection(words(seen.name))
    near = seen.high <= 1.5 * seen.low and not counts_rows(seen)
    for form in filter(None, time_formats(profile, seen)):
        if form in ("excel", "%Y%m") and not (named or "month" in words(seen.name)):
            continue
        if named or (seen.different >= 5 and (near or form.startswith("%"))):
            return form
    return ""


def propose_comma(seen: ColumnProfile, profile: Profile) -> Proposal:
    found = number_in(f"c{seen.place}", ",")
    low, high = profile.ask([f"min({found})", f"max({found})"])
    reason = f"written with a decimal comma; seen: {low:.8g} to {high:.8g}"
    return used(reason, type="number", decimal=",", **limits(low, high, False))


def misspelt(seen: ColumnProfile) -> str:
    """Return what is to be corrected in a column of numbers that are not all plain; "" else.

    Texts that come often among few numbers are categories: 0, 1, 2, 3+.
    """
    like_numbers = seen.numbers + seen.numerals
    if seen.kind != "text" or seen.number or seen.coded:
        return ""
    if not like_numbers or like_numbers < SHARE * seen.filled:
        return ""
    often = seen.others >= FEW * seen.kinds and seen.different <= 30
    if seen.others and often and not seen.numerals:
        return ""
    odd = []
    if seen.numerals:
        how = "with thousands separators" if seen.commas == seen.filled else "like"
        odd.append(f"{seen.numerals:,} written {how} {seen.numeral!r} (row {seen.numeral_row:,})")
    if seen.others:
        odd.append(f"{seen.others:,} like {seen.other!r} (row {seen.other_row:,})")
    mend = "write them like 1234.5, leave missing ones empty, and infer again"
    return f"numbers, but for {' and '.join(odd)}: {mend}"


def categories_of(seen: ColumnProfile) -> dict[str, int]:
    """Return how often each category comes: numbers and truth values in one spelling, no gaps."""
    counts = {name: n for name, n in seen.counts.items() if name.strip() not in CERTAIN}
    spell: Callable[[str], str] = str
    if all(PLAIN.fullmatch(name) for name in counts):
        spell = canonical
    elif {name.lower() for name in counts} <= {"true", "false"}:
        spell = str.lower
    found: dict[str, int] = {}
    for name, count in counts.items():
        found[spell(name)] = found.get(spell(name), 0) + count
    return dict(sorted(found.items()))


def propose_text(seen: ColumnProfile, profile: Profile) -> Proposal:
    counts = categories_of(seen)
    if {name.lower() for name in counts if name not in seen.stand_ins} == {"true", "false"}:
        return used("true and false", type="boolean")
    if any(re.search("[0-9]", name) for name in list(counts)[:5]) and time_formats(profile, seen):
        return time(seen.name)
    if seen.different >= NEARLY * seen.filled:
        rows = "each row" if seen.unique else "nearly all rows"
        return used(f"different in {rows}", type="id", role="id")
    if len(counts) <= MAX_CATEGORIES and not seen.more:
        reason = f"{len(counts)} different texts" + ", like 007" * seen.coded
        return used(reason, type="category", categories=list(counts))
    frequent = sorted(counts, key=lambda name: -counts[name])[:FREQUENT]
    share = sum(counts[name] for name in frequent) / seen.rows
    reason = f"{number_of(seen)} different texts, {FREQUENT} of which hold {share:.0%} of the rows"
    if share < SHARE:
        return ignored("category", f"{reason}: too many to learn from; group them at the source")
    return used(reason, type="category", categories=sorted(frequent), allow_unknown=True)


def number_of(seen: ColumnProfile) -> str:
    return f"{'about ' * (seen.more and seen.number)}{seen.different:,}"


def limits(low: float, high: float, whole: bool) -> dict[str, float]:
    """Return a minimum and a maximum with SLACK, rounded outwards, but never across zero."""
    margin = SLACK * (high - low) or SLACK * abs(high) or 1
    margin = floor(margin) if whole else margin  # 0 to 1, and 1 to 7, stay what they are
    step = 10.0 ** floor(log10(margin)) if margin else 1.0
    places = max(0, -round(log10(step)))
    bottom = floor(round((low - margin) / step, 6)) * step
    top = ceil(round((high + margin) / step, 6)) * step
    bottom = max(bottom, 0.0) if low >= 0 else bottom
    top = min(top, 0.0) if high <= 0 else top
    found = {"minimum": max(bottom, -LARGEST), "maximum": min(top, LARGEST)}
    return {key: tidy(round(value, places)) for key, value in found.items()}


def tidy(value: float) -> float:
    """Return whole numbers as such: 5 is easier to read than 5.0."""
    return int(value) if float(value).is_integer() and abs(value) < WHOLE else value
