"""Profile every column of a table with DuckDB; `schema infer` decides by it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.data import engine
from mlops_loop.data.cast import (
    DECIMAL_COMMA,
    NO_DATES,
    STAND_INS,
    as_text,
    kind_of,
    number_in,
    time_in,
    trimmed,
)
from mlops_loop.data.engine import text, texts

KEPT = 20_000  # different values of a column that are counted
SAMPLE = 20_000  # rows, about
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
NO_TIMES = (*STAND_INS, *NO_DATES)
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


@dataclass(frozen=True)
class Spelling:
    """How the cells of a column of texts are written that are no plain numbers."""

    commas: int = 0  # like 1.234,5 or a whole number, and so are all plain numbers of the column,
    decisive: int = 0  # and these cannot be 1,234
    numerals: int = 0  # numbers in another spelling, such as 12 %
    numeral: str = ""  # the first of them
    numeral_row: int = 0
    other: str = ""  # the first text that is no number at all
    other_row: int = 0
    others: int = 0  # how many there are
    kinds: int = 0  # and how many different ones


@dataclass(frozen=True)
class ColumnProfile:
    """What is known of a column."""

    name: str
    place: int
    kind: str  # text, number, float, boolean, time or other; "" if all values are missing
    type: str  # as Arrow calls it
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
    spelling: Spelling = Spelling()
    is_index: bool = False  # says the file itself

    @property
    def more(self) -> bool:
        """Whether there are values that `counts` lacks."""
        return self.different > len(self.counts)

    @property
    def number(self) -> bool:
        some = 0 < self.numbers == self.filled
        return self.kind in ("text", "number", "float") and some and not self.coded

    @property
    def comma(self) -> bool:
        """Whether all values are numbers with a decimal comma."""
        found = self.spelling
        return self.kind == "text" and found.decisive > 0 and found.commas == self.filled


@dataclass(frozen=True)
class Profile:
    """A table in DuckDB, as `rows`, and the profile of each column."""

    connection: duckdb.DuckDBPyConnection
    schema: pa.Schema
    rows: int
    columns: Mapping[str, ColumnProfile]

    def query(self, sql: str) -> pa.Table:
        return self.connection.sql(sql).to_arrow_table()


@contextmanager
def profiled(tables: Iterable[pa.Table], indices: Iterable[str] = ()) -> Iterator[Profile]:
    """Give what is known of a table; it is kept in a file for as long as the context lasts."""
    with (
        TemporaryDirectory() as folder,
        engine.connect(str(Path(folder) / "table.duckdb")) as connection,
    ):
        schema = load(connection, tables)
        (rows,) = one(connection, "SELECT count(*) FROM rows")
        about = distinct(connection, len(schema))
        columns = {}
        for place, name in enumerate(schema.names):
            found = ColumnProfile(
                name=name,
                place=place,
                kind=kind_of(schema.field(place).type).replace("nothing", ""),
                type=str(schema.field(place).type),
                rows=rows,
                different=about[place],
                is_index=name in indices,
            )
            columns[name] = profile_column(connection, found)
        yield Profile(connection, schema, rows, columns)


def load(connection: duckdb.DuckDBPyConnection, tables: Iterable[pa.Table]) -> pa.Schema:
    """Put all rows into the table `rows`; return the schema that they have."""
    known: pa.Schema | None = None
    for schema, stream in engine.streams(tables):
        connection.register("arriving", stream.reader)
        verb = "INSERT INTO rows" if known else "CREATE TABLE rows AS"
        try:
            connection.execute(f"{verb} SELECT * FROM arriving")
        except duckdb.Error:
            if stream.error:
                raise stream.error from None
            changed = [one.name for one in schema if known and one not in list(known)]
            what = "holds values of several kinds: let all be of one kind"
            raise Failure(f"the column {(changed or schema.names)[0]!r} {what}") from None
        finally:
            connection.unregister("arriving")
        known = known or schema
    if known is None:
        raise Failure("the table has no rows: a table with rows is needed")
    return known


def distinct(connection: duckdb.DuckDBPyConnection, columns: int) -> list[int]:
    """Return about how many different values each column has."""
    found = list[int]()
    for start in range(0, columns, 200):
        places = range(start, min(start + 200, columns))
        asked = ", ".join(f"approx_count_distinct(c{place})" for place in places)
        found += one(connection, f"SELECT {asked} FROM rows")
    return found


def profile_column(connection: duckdb.DuckDBPyConnection, known: ColumnProfile) -> ColumnProfile:
    """Return the profile of one column; nearly all is asked of its different values."""
    if known.kind == "":
        return known
    value = f"c{known.place}"
    present = f"{value} IS NOT NULL" + f" AND NOT isnan({value})" * (known.kind == "float")
    few = known.different <= 1.2 * KEPT and known.kind != "other"
    values = f"(SELECT {value} AS v, 1 AS n, rowid AS r FROM rows WHERE {present})"
    if few:
        grouped = f"SELECT {value} AS v, count(*) AS n, min(rowid) AS r FROM rows"
        grouped += f" WHERE {present} GROUP BY 1"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS {grouped}")
        values = "found"
    found = with_facts(connection, known, values)
    if known.kind in ("other", "time"):
        return found
    if few or not found.number:
        found = with_counts(connection, found, values)
    if found.filled < found.rows or found.different < 0.9 * found.rows:
        return found
    exact = found.different
    if not few:
        (exact,) = one(connection, f"SELECT count(DISTINCT {value}) FROM rows")
    return replace(found, different=exact, unique=exact == found.rows)


def one(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    (row,) = connection.execute(sql).fetchall()  # all: an unfinished answer blocks the next
    return tuple(row)


def with_facts(
    connection: duckdb.DuckDBPyConnection, known: ColumnProfile, values: str
) -> ColumnProfile:
    """Add how many values there are and what numbers they are."""
    number = {"text": number_in("v"), "number": "v::DOUBLE", "float": "v::DOUBLE"}.get(known.kind)
    if number is None:
        (filled,) = one(connection, f"SELECT coalesce(sum(n), 0)::BIGINT FROM {values}")
        return replace(known, filled=filled)
    stands = f"x IS NULL AND {trimmed('v')} IN {texts((*STAND_INS, *NO_DATES))}"
    is_text = known.kind == "text"
    asked = (
        "SELECT coalesce(sum(n), 0)::BIGINT AS filled,"
        " coalesce(sum(n) FILTER (x IS NOT NULL), 0)::BIGINT AS numbers,"
        " coalesce(bool_and(x = floor(x)), false) AS whole,"
        " coalesce(sum(n) FILTER (isinf(x)), 0)::BIGINT AS infinite,"
        " coalesce(min(x) FILTER (isfinite(x)), 0) AS low,"
        " coalesce(max(x) FILTER (isfinite(x)), 0) AS high"
        f" FROM (SELECT *, {number} AS x FROM {values})"
    )
    found = replace(known, **connection.sql(asked).to_arrow_table().to_pylist()[0])
    if is_text and found.whole:
        codes = f"SELECT coalesce(bool_or(regexp_matches(v, {text(LEADING_ZERO)})), false)"
        found = replace(found, coded=bool(one(connection, f"{codes} FROM {values}")[0]))
    if found.numbers == found.filled or not is_text:
        return found
    asked = f"SELECT v, sum(n)::BIGINT FROM (SELECT *, {number} AS x FROM {values}) WHERE {stands}"
    stand_ins = dict(connection.execute(f"{asked} GROUP BY v ORDER BY v").fetchall())
    found = replace(found, stand_ins=stand_ins, filled=found.filled - sum(stand_ins.values()))
    if found.numbers == found.filled:
        return found
    odd = f"(SELECT *, {trimmed('v')} AS t, {number} AS x FROM {values})"
    return replace(found, spelling=spelling(connection, odd, f"NOT ({stands})"))


def spelling(connection: duckdb.DuckDBPyConnection, values: str, present: str) -> Spelling:
    """Return how texts are written that are no numbers as programs write them."""
    comma = f"regexp_full_match(t, {text(DECIMAL_COMMA)})"
    decisive = f"regexp_matches(t, {text(NO_THOUSANDS)})"
    numeral = f"regexp_full_match(t, {text(NUMERAL)})"
    asked = (
        f"SELECT coalesce(sum(n) FILTER ({comma}), 0)::BIGINT AS commas,"
        f" coalesce(sum(n) FILTER ({comma} AND {decisive}), 0)::BIGINT AS decisive,"
        f" coalesce(sum(n) FILTER (x IS NULL AND {numeral}), 0)::BIGINT AS numerals,"
        f" coalesce(arg_min(t, r) FILTER (x IS NULL AND {numeral}), '') AS numeral,"
        f" coalesce(min(r) FILTER (x IS NULL AND {numeral}), 0) + 1 AS numeral_row,"
        f" coalesce(arg_min(t, r) FILTER (x IS NULL AND NOT {numeral}), '') AS other,"
        f" coalesce(min(r) FILTER (x IS NULL AND NOT {numeral}), 0) + 1 AS other_row,"
        f" coalesce(sum(n) FILTER (x IS NULL AND NOT {numeral}), 0)::BIGINT AS others,"
        f" count(DISTINCT t) FILTER (x IS NULL AND NOT {numeral}) AS kinds"
        f" FROM {values} WHERE {present}"
    )
    return Spelling(**connection.sql(asked).to_arrow_table().to_pylist()[0])


def with_counts(
    connection: duckdb.DuckDBPyConnection, known: ColumnProfile, values: str
) -> ColumnProfile:
    """Add the most frequent values, as the texts that `cast` makes of them."""
    shown = as_text("v", known.kind)
    asked = f"SELECT {shown} AS t, sum(n)::BIGINT AS n FROM {values} GROUP BY 1"
    (different,) = one(connection, f"SELECT count(*) FROM ({asked})")
    asked = f"SELECT t, n FROM ({asked}) ORDER BY n DESC, t LIMIT {KEPT}"
    counts = dict(connection.execute(asked).fetchall())
    return replace(known, counts=dict(sorted(counts.items())), different=different)


def time_formats(profile: Profile, known: ColumnProfile) -> list[str | None]:
    """Return those formats in which all values of a column are times; [None] if they are times."""
    if known.kind == "time":
        return [None]
    if known.kind not in ("text", "number", "float") or not known.filled:
        return []
    candidates = FORMATS if known.kind == "text" else []
    if 0 < known.numbers == known.filled:
        candidates = [
            name for name, ends in NUMBERED.items() if known.whole and within(known, ends)
        ]
        candidates = [None, *candidates] if "%Y%m%d" in candidates else candidates
    value = f"c{known.place}"
    stands = f"coalesce({trimmed(as_text(value, known.kind))} NOT IN {texts(NO_TIMES)}, false)"
    rows = f"SELECT {value} FROM rows WHERE {stands}"
    shown = trimmed(as_text(value, known.kind))
    first = profile.connection.execute(f"SELECT {shown} FROM ({rows}) LIMIT 5").fetchall()
    candidates = [form for form in candidates if all(may_fit(form, text) for (text,) in first)]
    for some in (f"SELECT * FROM ({rows}) LIMIT 5000", rows):
        if not candidates:
            return []
        fits = [f"bool_and({time_in(value, known.kind, form)} IS NOT NULL)" for form in candidates]
        answer = one(profile.connection, f"SELECT {', '.join(fits)} FROM ({some})")
        candidates = [form for form, fine in zip(candidates, answer, strict=True) if fine]
    return candidates


def may_fit(form: str | None, value: str) -> bool:
    """Return whether a text may be a time in a format; to ask DuckDB of all of them takes long."""
    if form is None or form.startswith(("epoch", "excel")):
        return True
    if "%z" in form.lower():
        return bool(re.search(r"([A-Za-z]|[-+][0-9]{2}:?[0-9]{0,2})$", value))
    try:
        datetime.strptime(value, form)
    except ValueError:
        return False
    return True


def within(known: ColumnProfile, ends: tuple[int, int]) -> bool:
    return ends[0] <= known.low and known.high <= ends[1]


def unreadable_time(profile: Profile, known: ColumnProfile) -> str:
    """Return the first text that is no time in the format that most of the first ones have."""
    value = f"c{known.place}"
    stands = f"coalesce({trimmed(as_text(value, known.kind))} NOT IN {texts(NO_TIMES)}, false)"
    rows = f"(SELECT {value}, rowid AS r FROM rows WHERE {stands} ORDER BY rowid LIMIT 10000)"
    forms = FORMATS if known.kind == "text" else [None]
    fits = [f"count({time_in(value, known.kind, form)})" for form in forms]
    counts = one(profile.connection, f"SELECT {', '.join(fits)} FROM {rows}")
    form = forms[max(range(len(forms)), key=lambda place: counts[place])]
    wrong = f"{time_in(value, known.kind, form)} IS NULL"
    asked = f"SELECT {value}::VARCHAR, r + 1 FROM {rows} WHERE {wrong} ORDER BY r LIMIT 1"
    found = profile.connection.execute(asked).fetchall()
    return f"{found[0][0]!r} in row {found[0][1]:,}" if found else "its values"


def require_column(name: str, names: list[str]) -> None:
    if name not in names:
        close = get_close_matches(name, names, 3, 0.5) or names[:10]
        shown = ", ".join(repr(other) for other in close)
        hint = "did you mean" if close != names[:10] else "there are"
        raise Failure(f"there is no column {name!r}; {hint} {shown}")
