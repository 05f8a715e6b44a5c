"""Profile every column of a table in one pass; `schema infer` decides by it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column
from mlops_loop.data.cast import MISFIT, cast, is_text, to_time
from mlops_loop.data.data_checks import Hashes

KEPT = 20_000  # different values of a column that are counted, and rows in the sample
KEYED = 12  # columns of which every value is remembered, to tell whether they are unique
WHOLE = 2**53  # up to which floats hold every integer
STAND_INS = (
    *("NA", "N/A", "n/a", "na", "#N/A", "NaN", "nan", "NULL", "Null", "null", "None", "none"),
    *("?", "-", "--", "."),
)
CODE = r"^\s*[-+]?(0[0-9xX]|[0-9]{16,}\s*$)"
DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y"),
    *("%m-%d-%Y", "%d-%m-%Y", "%m/%d/%y", "%d/%m/%y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y"),
    *("%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %Y"),
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
FORMATS: list[str | None] = [
    None,
    *(day + time for day, time in product(DAYS, TIMES)),
]  # None is ISO 8601


NUMBER = Column(role="ignored", type="number")
INTEGER = Column(role="ignored", type="integer")
TEXT = Column(role="ignored", type="category")


@dataclass
class ColumnProfile:
    """What is known of a column, after a pass over its values."""

    rows: int = 0
    filled: int = 0
    kind: str = ""  # text, number, boolean, time or other; "" if all values are missing
    counts: pa.Table = None  # its most frequent values: value, count
    more: bool = False  # whether there are others
    stand_ins: Counter[str] = field(
        default_factory=Counter
    )  # texts that may stand for missing values
    numeric: bool = True  # whether all else is a number,
    whole: bool = True  # a whole one,
    coded: bool = False  # and one like 007 or longer than numbers are
    infinite: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    # Of all values; None once one has come twice.
    keys: list[Hashes] | None = field(default_factory=list)

    @property
    def number(self) -> bool:
        return self.kind in ("text", "number") and self.numeric and not self.coded


def kind_of_type(kind: pa.DataType) -> str:
    if is_text(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "number" if number else "other"


def cast_or_none(values: pa.Array, column: Column) -> pa.Array | None:
    try:
        return cast(values, column)
    except MISFIT:
        return None


def update_profile(seen: ColumnProfile, values: pa.ChunkedArray, name: str) -> None:
    """Add values to a profile. Nearly all is done on the different values and their counts."""
    seen.rows += len(values)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    values = values.drop_null()
    seen.filled += len(values)
    if not len(values):
        return
    kind = kind_of_type(values.type)
    if seen.kind not in ("", kind):
        raise Failure(
            f"the column {name!r} holds {seen.kind} and {kind} values: let all be of one kind"
        )
    seen.kind = kind
    if kind == "other":
        return
    found = pa.Table.from_struct_array(pc.value_counts(values)).rename_columns(["value", "count"])
    if kind in ("text", "number"):
        update_numbers(seen, found)
    if found.num_rows < len(values) or kind == "time" or (seen.number and not seen.whole):
        seen.keys = None
    if seen.keys is not None:
        seen.keys.append(
            pd.util.hash_pandas_object(found["value"].to_pandas(), index=False).to_numpy()
        )
    if not (
        seen.more and (seen.number or kind == "time")
    ):  # of those, only a few are worth knowing
        tables = [found] if seen.counts is None else [seen.counts, found]
        every = pa.concat_tables(tables, promote_options="permissive")
        seen.counts = every.group_by("value", use_threads=False).aggregate([("count", "sum")])
        seen.counts = seen.counts.rename_columns(["value", "count"])
    if seen.counts.num_rows > KEPT:
        order = pc.sort_indices(seen.counts, [("count", "descending")])[:KEPT]
        seen.counts = seen.counts.take(order)
        seen.more = True


def update_numbers(seen: ColumnProfile, found: pa.Table) -> None:
    """Add numbers, or texts that may spell them, to a profile."""
    if seen.kind == "text":
        stand_in = pc.is_in(found["value"], pa.array(STAND_INS, found["value"].type))
        if pc.any(stand_in).as_py():
            for row in found.filter(stand_in).to_pylist():
                seen.stand_ins[row["value"]] += row["count"]
            found = found.filter(pc.invert(stand_in))
    numbers = cast_or_none(found["value"], NUMBER) if seen.numeric else None
    if numbers is None:
        seen.numeric = False
        return
    if seen.kind == "text" and not seen.coded:
        seen.coded = bool(pc.any(pc.match_substring_regex(found["value"], CODE)).as_py())
    seen.whole = seen.whole and cast_or_none(found["value"], INTEGER) is not None
    infinite = pc.is_inf(numbers)
    if pc.any(infinite).as_py():
        seen.infinite += pc.sum(found["count"].filter(infinite)).as_py()
        numbers = numbers.filter(pc.invert(infinite))
    if len(numbers):
        extremes = pc.min_max(numbers)
        seen.low = min(seen.low, extremes["min"].as_py())
        seen.high = max(seen.high, extremes["max"].as_py())


@dataclass
class TableProfile:
    """What one pass shows: a profile of each column, some of the rows, the timestamp's formats."""

    profiles: dict[str, ColumnProfile] = field(default_factory=dict)
    sample: pa.Table = None
    formats: list[str | None] = field(default_factory=lambda: FORMATS)

    @property
    def rows(self) -> int:
        return next((seen.rows for seen in self.profiles.values()), 0)


def profile_table(
    tables: Iterable[pa.Table], target: str, timestamp: str | None
) -> Iterator[TableProfile]:
    """Give, after each table, what is known so far. Raises Failure if a column named is absent."""
    known = TableProfile()
    chance = 1.0
    random = np.random.default_rng(0)
    for table in tables:
        if known.sample is None:
            known.profiles = {name: ColumnProfile() for name in table.column_names}
            for name in filter(None, (target, timestamp)):
                require_column(name, table.column_names)
        for name, seen in known.profiles.items():
            update_profile(seen, table[name], name)
        for seen in [seen for seen in known.profiles.values() if seen.keys is not None][KEYED:]:
            seen.keys = None
        if timestamp:
            known.formats = formats_of(
                timestamp, table[timestamp].drop_null().unique(), known.formats
            )
        draw = random.random(len(table))
        drawn = table.append_column("", pa.array(draw)).filter(pa.array(draw < chance))
        tables_so_far = [drawn] if known.sample is None else [known.sample, drawn]
        known.sample = pa.concat_tables(tables_so_far, promote_options="permissive")
        if len(known.sample) > KEPT:
            known.sample = known.sample.take(pc.sort_indices(known.sample[""])[:KEPT])
            chance = known.sample[""][-1].as_py()
        yield known


def formats_of(name: str, values: pa.Array, formats: list[str | None]) -> list[str | None]:
    """Return those formats which all values of the timestamp have; raises Failure if there is
    none.
    """
    if not len(values):
        return formats
    kept = time_formats(values, formats)
    if not kept:
        wrong = next(
            (text for text in values[:1000] if not time_formats(pa.array([text.as_py()]), formats)),
            values[0],
        )
        what = f"cannot be read, for example {str(wrong)!r}: write it as 2026-12-31 23:59"
        raise Failure(f"the timestamp {name!r} {what}")
    return kept


def require_column(name: str, names: list[str]) -> None:
    if name not in names:
        close = get_close_matches(name, names, 3, 0.5) or names[:10]
        shown = ", ".join(repr(other) for other in close)
        hint = "did you mean" if close != names[:10] else "there are"
        raise Failure(f"there is no column {name!r}; {hint} {shown}")


def missing_texts(profiles: Mapping[str, ColumnProfile]) -> list[str]:
    """Return the texts that stand for missing values: those beside which a column holds numbers
    only.
    """
    found: Counter[str] = sum(
        (seen.stand_ins for seen in profiles.values() if seen.number), Counter()
    )
    return ["", *sorted(found)]


def set_missing(seen: ColumnProfile, missing: list[str]) -> None:
    """Take the texts that stand for missing values out of a profile."""
    seen.filled -= sum(seen.stand_ins[text] for text in missing)
    if seen.kind == "text":
        kept = pc.invert(
            pc.is_in(seen.counts["value"], pa.array(missing, seen.counts["value"].type))
        )
        seen.counts = seen.counts.filter(kept)
        seen.numeric &= seen.filled > 0
    if seen.number and seen.whole and max(-seen.low, seen.high) > WHOLE:
        seen.numeric = not pa.types.is_integer(
            seen.counts["value"].type
        )  # so long a number is a code
        seen.whole = False


def is_unique(seen: ColumnProfile) -> bool:
    if seen.keys is None or seen.filled < seen.rows:
        return False
    keys = np.concatenate(seen.keys) if seen.keys else np.array([])
    return len(keys) == seen.rows and len(np.unique(keys)) == seen.rows


def text_counts(seen: ColumnProfile) -> dict[str, int]:
    """Return the counts of the most frequent values, as texts, as `cast_table` makes them."""
    values = cast(seen.counts["value"], TEXT).to_pylist()
    counts: Counter[str] = Counter()
    for value, count in zip(values, seen.counts["count"].to_pylist(), strict=True):
        counts[value] += count
    return dict(sorted(counts.items()))


def time_formats(values: pa.Array | pa.ChunkedArray, formats: list[str | None]) -> list[str | None]:
    """Return those formats which all of the values have."""
    kept: list[str | None] = []
    first = values[0].as_py()
    if pa.types.is_temporal(values.type):
        formats = formats[:1]  # it needs none
    if isinstance(first, str) and not re.search(r"[0-9]{2}", first[:40]):
        return kept
    for form in formats:
        time = Column(role="ignored", type="timestamp", format=form)
        try:
            to_time(values[:1], time)  # tells most
            to_time(values, time)
        except MISFIT:
            continue
        kept.append(form)
    return kept
