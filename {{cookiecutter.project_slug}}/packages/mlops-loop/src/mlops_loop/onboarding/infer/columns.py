"""Propose what schema.yaml says of a column. Change `propose` first."""

import re
from dataclasses import dataclass
from math import ceil, floor, log10

import pyarrow as pa

from mlops_loop.contract.schema import LARGEST, Column
from mlops_loop.data.profile import (
    FORMATS,
    WHOLE,
    ColumnProfile,
    is_unique,
    text_counts,
    time_formats,
)

MAX_CATEGORIES = 100  # of a text column; of one with more, only the most frequent are named
FREQUENT = 50  # so many are named,
SHARE = 0.8  # if they hold this share of the rows
EMPTY = 0.95  # share of missing values from which on a column is ignored
NEARLY = 0.98  # share of different texts from which on they are ids
SLACK = 0.1  # of the range, on either side
ID = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|key|index)$)|[a-z]I[dD]$")
# As people write numbers: with decimal commas and units.
NUMERAL = re.compile(r"\s*[-+$€]?\d+([., ]\d+)*\s*[%€$]?")


@dataclass(frozen=True)
class Proposal:
    """What schema.yaml is to say of a column, and the reason."""

    column: Column
    reason: str

    def with_keys(self, reason: str, **keys: object) -> "Proposal":
        """Return the proposal with other keys of the column, and another reason."""
        return Proposal(self.column.model_copy(update=keys), reason)


def ignored(kind: str, reason: str) -> Proposal:
    return Proposal(Column.model_validate({"type": kind, "role": "ignored"}), reason)


def used(reason: str, **keys: object) -> Proposal:
    return Proposal(Column.model_validate(keys), reason)


def propose(name: str, seen: ColumnProfile, sample: pa.ChunkedArray) -> Proposal:
    """Return the proposal for a column that is neither target nor timestamp."""
    empty = 1 - seen.filled / seen.rows
    if empty >= EMPTY:
        share = "no values" if empty == 1 else f"{empty:.1%} of the values are missing"
        return ignored("category", share)
    if seen.kind == "other":
        return ignored("category", f"values of type {sample.type} are not supported")
    if seen.kind == "time":
        return time(name)
    different = None if seen.more else seen.counts.num_rows
    if different == 1 and not empty:
        return ignored("category", f"always {next(iter(text_counts(seen)))}")
    found = propose_number(name, seen) if seen.number else propose_text(name, seen, sample)
    if empty and found.column.role == "feature":
        return found.with_keys(found.reason, nullable=True)
    return found


def time(name: str) -> Proposal:
    return ignored("timestamp", f"a time: to split by it, give --timestamp {name!r}")


def propose_number(name: str, seen: ColumnProfile) -> Proposal:
    kind = "integer" if seen.whole else "number"
    largest = max(-seen.low, seen.high)
    if seen.whole and is_unique(seen) and (ID.search(name) or is_sequence(seen)):
        reason = "different in each row, and in its name or its order an id"
        return used(reason, type=kind, role="id")
    if largest > LARGEST:
        return ignored(kind, f"values as large as {largest:.1e} are beyond float32")
    reason = f"seen: {seen.low:.8g} to {seen.high:.8g}"
    return used(reason, type=kind, **limits(seen.low, seen.high, seen.whole))


def is_sequence(seen: ColumnProfile) -> bool:
    return seen.high - seen.low == seen.rows - 1


def propose_text(name: str, seen: ColumnProfile, sample: pa.ChunkedArray) -> Proposal:
    counts = text_counts(seen)
    values = sample.drop_null()
    if {text.casefold() for text in counts} == {"true", "false"}:
        return used("true and false", type="boolean")
    if time_formats(values.unique(), FORMATS):
        return time(name)
    if is_unique(seen):
        return used("different in each row", type="id", role="id")
    if len(values.unique()) >= NEARLY * len(values):
        nullable = {"nullable": True} if seen.filled < seen.rows else {}
        return used("different in nearly all rows", type="id", role="id", **nullable)
    if len(counts) <= MAX_CATEGORIES:
        reason = f"{len(counts)} different texts" + ", like 007" * seen.coded
        return used(reason, type="category", categories=list(counts))
    return propose_frequent(seen, counts)


def propose_frequent(seen: ColumnProfile, counts: dict[str, int]) -> Proposal:
    """Return the proposal for many texts: the most frequent ones, if they hold most rows."""
    frequent = sorted(counts, key=lambda text: -counts[text])[:FREQUENT]
    share = sum(counts[text] for text in frequent) / seen.rows
    reason = f"{number_of(seen)} different texts, {FREQUENT} of which hold {share:.0%} of the rows"
    numbers = sum(bool(NUMERAL.fullmatch(text)) for text in counts)
    if numbers >= SHARE * len(counts):
        reason += ": mostly numbers. Normalise to 1234.5; leave missing cells empty"
        return ignored("category", reason)
    if share < SHARE:
        return ignored("category", f"{reason}: too many to learn from; group them at the source")
    return used(reason, type="category", categories=sorted(frequent), allow_unknown=True)


def number_of(seen: ColumnProfile) -> str:
    return f"{'over ' * seen.more}{seen.counts.num_rows:,}"


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
