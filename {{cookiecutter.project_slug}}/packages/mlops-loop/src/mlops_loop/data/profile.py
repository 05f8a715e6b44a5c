"""Profile every column of a table with DuckDB; `schema infer` decides by it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import duckdb

from mlops_loop.data.cast import DECIMAL_COMMA, NO_DATES, STAND_INS, as_text, number_in, trimmed
from mlops_loop.data.engine import Rows, text, texts

KEPT = 20_000  # different values of a column that are counted
WHOLE = 2**53  # up to which floats hold every integer
LEADING_ZERO = r"^\s*[-+]?(0[0-9xX]|[0-9]{16,}\s*$)"  # 007 and the like are codes, not numbers
SIGNS = r"[$€£¥₹₽]|[A-Z]{3}|Fr\.?|kr\.?"
UNITS = rf"[%‰°]|{SIGNS}|[kKM]|kg|g|km|m|cm|mm|ms|s|h|min|Mio\.?|Mrd\.?"
SPACE = "\\s\u00a0\u2009\u202f"
MINUS = "-+\u2212\u2013"
AFTER = "-\u2013"  # CHF 12.- and, in accounts, 5-
MARKS = ".,'_\u2019" + SPACE
NO_THOUSANDS = r",([0-9]{1,2}|[0-9]{4,})($|[eE])|^[-+]?0?,"  # a comma before decimals
GROUPED = rf"[0-9]{{1,3}}([{MARKS}][0-9]{{3}})+([.,][0-9]+)?|[0-9]{{1,2}}(,[0-9]{{2}})+,[0-9]{{3}}"
# As people and programs write numbers: 1'234, 1 234, 1,234.5, CHF 12.-, 12 %, (5), 5-, 1.5e3.
NUMERAL = (
    rf"\(?[{MINUS}]?[{SPACE}]*({SIGNS})?[{SPACE}]*[{MINUS}]?"
    rf"({GROUPED}|[0-9]+([.,][0-9]+)?|[.,][0-9]+)([eE][-+]?[0-9]+)?([.,]?[{AFTER}]{{1,2}})?"
    rf"[{SPACE}]*({UNITS})?\)?"
)
GAPS = (*STAND_INS, *NO_DATES)
NUMBERS = ("text", "number", "float")  # kinds of which all values may be numbers


def total(condition: str = "true") -> str:
    """Return how many rows there are with one of some values, `n` with each, as SQL."""
    return f"coalesce(sum(n) FILTER ({condition}), 0)::BIGINT"


def first(condition: str) -> str:
    """Return the first of some texts `t`, which is in row `r`, as SQL."""
    return f"coalesce(arg_min(t, r) FILTER ({condition}), '')"


def first_row(condition: str) -> str:
    return f"coalesce(min(r) FILTER ({condition}), 0)"


FILLED = {"filled": total()}
NUMBER_FACTS = FILLED | {  # of values `v` that may be the number `x`
    "numbers": total("x IS NOT NULL"),
    "infinite": total("isinf(x)"),
    "whole": "coalesce(bool_and(x = floor(x)), false)",
    "low": "coalesce(min(x) FILTER (isfinite(x)), 0)",
    "high": "coalesce(max(x) FILTER (isfinite(x)), 0)",
}
IS_COMMA = f"regexp_full_match(t, {text(DECIMAL_COMMA)})"
IS_NUMERAL = f"x IS NULL AND regexp_full_match(t, {text(NUMERAL)})"
IS_OTHER = f"x IS NULL AND NOT regexp_full_match(t, {text(NUMERAL)})"
SPELLINGS = {
    "commas": total(IS_COMMA),
    "decisive": total(f"{IS_COMMA} AND regexp_matches(t, {text(NO_THOUSANDS)})"),
    "numerals": total(IS_NUMERAL),
    "numeral": first(IS_NUMERAL),
    "numeral_row": first_row(IS_NUMERAL),
    "others": total(IS_OTHER),
    "other": first(IS_OTHER),
    "other_row": first_row(IS_OTHER),
    "kinds": f"count(DISTINCT t) FILTER ({IS_OTHER})",
}


@dataclass(frozen=True)
class ColumnProfile:
    """What is known of a column."""

    name: str
    place: int
    kind: str  # text, number, float, boolean, time, other or nothing
    type: str  # as DuckDB calls it
    rows: int
    filled: int = 0  # without what stands for a missing value
    stand_ins: Mapping[str, int] = field(default_factory=dict)
    numbers: int = 0  # values that are numbers
    whole: bool = False
    coded: bool = False  # like 007, or longer than numbers are
    infinite: int = 0
    low: float = 0.0
    high: float = 0.0
    different: int = 0  # values: about, if there are more than KEPT
    unique: bool = False  # whether there is a value in each row, each time another one
    counts: Mapping[str, int] = field(default_factory=dict)  # of the most frequent, as texts
    is_index: bool = False  # says the file itself
    # Of texts that are not all plain numbers:
    commas: int = 0  # values like 1.234,5 or a whole number, and so are all plain numbers;
    decisive: int = 0  # and these cannot be 1,234
    numerals: int = 0  # numbers in another spelling, such as 12 %
    numeral: str = ""  # the first of them
    numeral_row: int = 0
    others: int = 0  # texts that are no number at all
    other: str = ""  # the first of them
    other_row: int = 0
    kinds: int = 0  # how many different ones there are

    @property
    def more(self) -> bool:
        """Whether there are values that `counts` lacks."""
        return self.different > len(self.counts)

    @property
    def number(self) -> bool:
        some = 0 < self.numbers == self.filled
        return self.kind in NUMBERS and some and not self.coded

    @property
    def comma(self) -> bool:
        """Whether all values are numbers with a decimal comma."""
        return self.decisive > 0 and self.commas == self.filled

    @property
    def texts(self) -> str:
        """The query for the values that do not stand for a missing one, in SQL: `v`, row `r`."""
        value = f"c{self.place}"
        shown = trimmed(as_text(value, self.kind))
        return f"SELECT {value} AS v, rowid + 1 AS r FROM rows WHERE {shown} NOT IN {texts(GAPS)}"


class Profile(NamedTuple):
    """A table in memory, or beside it if it is too large, and the profile of each column."""

    table: Rows
    rows: int
    columns: Mapping[str, ColumnProfile]

    def ask(self, asked: Iterable[str], rows: str = "rows") -> tuple[float, ...]:
        """Return the answers to questions on some rows."""
        sql = f"SELECT {', '.join(asked)} FROM {rows}"
        return tuple(self.table.connection.sql(sql).fetchall()[0])


def profiled(arriving: Rows, indices: Iterable[str] = ()) -> Profile:
    """Return what is known of a table, which is read once."""
    connection = arriving.connection
    connection.execute("CREATE TABLE kept AS FROM rows")
    connection.execute("CREATE OR REPLACE TEMP VIEW rows AS SELECT *, rowid FROM kept")
    ((rows,),) = connection.sql("SELECT count(*) FROM rows").fetchall()
    columns = {}
    about = zip(arriving.names, arriving.kinds, arriving.types, strict=True)
    for place, (name, kind, stored) in enumerate(about):
        known = ColumnProfile(name, place, kind, stored, rows, is_index=name in indices)
        columns[name] = profile_column(connection, known)
    return Profile(arriving, rows, columns)


def with_facts(
    connection: duckdb.DuckDBPyConnection, known: ColumnProfile, asked: Mapping[str, str], rows: str
) -> ColumnProfile:
    """Add the answers to questions, each under its name."""
    sql = f"SELECT {', '.join(asked.values())} FROM {rows}"
    (answer,) = connection.sql(sql).fetchall()
    return replace(known, **dict(zip(asked, answer, strict=True)))


def profile_column(connection: duckdb.DuckDBPyConnection, known: ColumnProfile) -> ColumnProfile:
    """Return the profile of one column; nearly all is asked of its different values."""
    if known.kind == "nothing":
        return known
    value = f"c{known.place}"
    about = {"different": f"approx_count_distinct({value})"}
    known = with_facts(connection, known, about, "rows")
    number = {"text": number_in("v"), "number": "v::DOUBLE", "float": "v::DOUBLE"}.get(known.kind)
    present = f"{value} IS NOT NULL" + f" AND NOT isnan({value})" * (known.kind == "float")
    few = known.different <= 1.2 * KEPT and known.kind != "other"
    grouped = f"{value} AS v, {'count(*)' if few else 1} AS n, {'min(rowid)' if few else 'rowid'}"
    values = f"SELECT {grouped} + 1 AS r FROM rows WHERE {present}{' GROUP BY 1' * few}"
    values = f"(SELECT *, {number or 'NULL'} AS x FROM ({values}))"
    if few:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS FROM {values}")
        values = "found"
    found = with_facts(connection, known, NUMBER_FACTS if number else FILLED, values)
    if known.kind == "text":
        found = with_texts(connection, found, values)
    if known.kind in ("other", "time"):
        return found
    if few or not found.number:
        found = with_counts(connection, found, values)
    if found.filled < found.rows or found.different < 0.9 * found.rows:
        return found
    exact = {"different": f"count(DISTINCT {value})"}
    found = found if few else with_facts(connection, found, exact, "rows")
    return replace(found, unique=found.different == found.rows)


def with_texts(
    connection: duckdb.DuckDBPyConnection, known: ColumnProfile, values: str
) -> ColumnProfile:
    """Add which texts stand for a missing value, and how those are spelled that are no numbers."""
    if known.whole:
        coded = {"coded": f"coalesce(bool_or(regexp_matches(v, {text(LEADING_ZERO)})), false)"}
        known = with_facts(connection, known, coded, values)
    if known.numbers == known.filled:
        return known
    stands = f"x IS NULL AND {trimmed('v')} IN {texts(GAPS)}"
    asked = f"SELECT v, sum(n)::BIGINT FROM {values} WHERE {stands} GROUP BY v ORDER BY v"
    stand_ins = dict(connection.execute(asked).fetchall())
    known = replace(known, stand_ins=stand_ins, filled=known.filled - sum(stand_ins.values()))
    if known.numbers == known.filled:
        return known
    odd = f"(SELECT *, {trimmed('v')} AS t FROM {values} WHERE NOT ({stands}))"
    return with_facts(connection, known, SPELLINGS, odd)


def with_counts(
    connection: duckdb.DuckDBPyConnection, known: ColumnProfile, values: str
) -> ColumnProfile:
    """Add the most frequent values, as the texts that `cast` makes of them."""
    shown = as_text("v", known.kind)
    grouped = f"(SELECT {shown} AS t, sum(n)::BIGINT AS n FROM {values} GROUP BY 1)"
    asked = f"SELECT t, n FROM {grouped} ORDER BY n DESC, t LIMIT {KEPT}"
    counts = dict(connection.execute(asked).fetchall())
    known = replace(known, counts=dict(sorted(counts.items())))
    return with_facts(connection, known, {"different": "count(*)"}, grouped)
