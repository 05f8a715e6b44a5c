"""Cast rows to the contract's types, and report for each row what breaks the contract.

Each rule is an SQL expression on a column, for DuckDB. The API checks a request with pydantic types
made from the same contract (serving/request_schema.py); a property-based test holds the two against
each other.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_loop.contract.schema import Column
from mlops_loop.data import engine
from mlops_loop.data.engine import Rows, number, text, texts

Reasons = NDArray[np.object_]  # what breaks the contract in each row, "" if nothing

SQL = {
    "number": "DOUBLE",
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "category": "VARCHAR",
    "id": "VARCHAR",
    "timestamp": "TIMESTAMP",  # UTC where the source names a time zone
}
# Texts that programs write for a missing value, whatever the column is,
CERTAIN = (
    *(r"\N", "<NA>", "NaN", "nan", "NAN", "-nan", "NaT", "NULL", "Null", "null", "(null)"),
    *("#N/A", "#N/A N/A", "#NA", "#DIV/0!", "#REF!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!"),
    *("N/A", "n/a", "<null>", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "#BEZUG!", "#NV"),
)
# and those that are words or signs of their own in some columns.
STAND_INS = (*CERTAIN, "NA", "na", "None", "none", "?", "-", "--", "---", ".", "..", "")
NO_DATES = ("0000-00-00", "0000-00-00 00:00:00")
SPACES = r"chr(9) || chr(10) || chr(13) || chr(32) || chr(160) || chr(8239) || chr(65279)"
DECIMAL_COMMA = r"[-+]?(\d{1,3}(\.\d{3})+|\d+)?(,\d+)?([eE][-+]?\d+)?"
ZONED = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|[-+]\d\d(:?\d\d)?)"
SPELLED = r"[-+]?(0|[1-9]\d*)(\.\d*)?"
ISO = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?"
COMPACT = ("%Y%m%d", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y-%m", "%Y/%m/%d", "%Y-%m-%dT%H")
PLAIN = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # a number that is no code, such as 007
SINCE_1970 = {"epoch s": "1000000", "epoch ms": "1000", "epoch us": "1", "epoch ns": "0.001"}
EXCEL = "excel"  # days since 1899-12-30


def trimmed(value: str) -> str:
    return f"trim({value}, {SPACES})"


def number_in(value: str, decimal: str = ".") -> str:
    """Return the number that a text spells; NULL if it spells none, or only to DuckDB: 1_000."""
    if decimal == ",":
        point = f"replace(replace({trimmed(value)}, '.', ''), ',', '.')"
        fits = f"regexp_full_match({trimmed(value)}, {text(DECIMAL_COMMA)})"
        return f"CASE WHEN {fits} THEN TRY_CAST({point} AS DOUBLE) END"
    # What comes late is asked of few rows; `trim` of all of them takes longer than the cast.
    found = f"coalesce(TRY_CAST({value} AS DOUBLE), TRY_CAST({trimmed(value)} AS DOUBLE))"
    return f"CASE WHEN NOT contains({value}, '_') THEN nullif({found}, 'nan'::DOUBLE) END"


def whole(value: str, double: str) -> str:
    """Return a value as an integer; NULL if its number, `double`, has decimals."""
    exact = f"coalesce(TRY_CAST({value} AS BIGINT), TRY_CAST({double} AS BIGINT))"
    return f"CASE WHEN {double} = floor({double}) THEN {exact} END"


def as_text(value: str, kind: str) -> str:
    """Return a value as a text: 1.0 as 1, like a whole number of another type."""
    if kind != "float":
        return f"CAST({value} AS VARCHAR)"
    short = f"CAST(TRY_CAST({value} AS HUGEINT) AS VARCHAR)"
    exact = f"{value} = floor({value}) AND abs({value}) < 1e15"
    return f"CASE WHEN isnan({value}) THEN NULL WHEN {exact} THEN {short} ELSE {value}::VARCHAR END"


def time_in(value: str, kind: str, form: str | None) -> str:
    """Return the time of a value in a format: UTC where it names a zone."""
    if kind == "time":
        return f"CAST(TRY_CAST({value} AS TIMESTAMPTZ) AS TIMESTAMP)"
    if form in SINCE_1970 or form == EXCEL:
        amount = number_in(value) if kind == "text" else f"TRY_CAST({value} AS DOUBLE)"
        if form == EXCEL:
            days = f"to_microseconds(TRY_CAST({amount} * 86400000000 AS BIGINT))"
            return f"TIMESTAMP '1899-12-30' + {days}"
        return f"make_timestamp(TRY_CAST({amount} * {SINCE_1970[str(form)]} AS BIGINT))"
    value = trimmed(as_text(value, kind))
    if form:
        found = f"CAST(try_strptime({value}, {text(form)}) AS TIMESTAMP)"
        # To DuckDB the year 24 is in the first century, and fits %Y.
        return f"CASE WHEN {found} >= TIMESTAMP '1000-01-01' THEN {found} END"
    naive = f"regexp_full_match({value}, {text(ISO + 'Z?')})"
    zoned = f"regexp_full_match({value}, {text(ZONED)})"
    compact = f"try_strptime({value}, [{', '.join(map(text, COMPACT))}])"
    return (
        f"CASE WHEN {naive} THEN TRY_CAST({value} AS TIMESTAMP) "
        f"WHEN {zoned} THEN CAST(TRY_CAST({value} AS TIMESTAMPTZ) AS TIMESTAMP) "
        f"ELSE CAST({compact} AS TIMESTAMP) END"
    )


def canonical(value: str) -> str:
    """Return a number's shortest spelling, such as 1 for 1.0; another text stays as it is."""
    if not PLAIN.fullmatch(value):
        return value
    short = value.rstrip("0").rstrip(".") if "." in value else value
    return "0" if short == "-0" else short


def spelled_alike(value: str, categories: tuple[str, ...] | None) -> str:
    """Return a text in the contract's spelling, where all categories are numbers or truth values.

    CSV files hold 1, 1.0 or 1.00 for the same class, depending on the program and its gaps.
    """
    if not categories:
        return value
    if {name.lower() for name in categories} == {"true", "false"} and len(categories) == 2:
        arms = [f"WHEN {text(name.lower())} THEN {text(name)}" for name in categories]
        return f"CASE lower({value}) {' '.join(arms)} ELSE {value} END"
    short = {canonical(name): name for name in categories}
    if len(short) < len(categories) or not all(PLAIN.fullmatch(name) for name in categories):
        return value
    plain = f"regexp_full_match({value}, {text(SPELLED)})"
    found = f"rtrim(rtrim({value}, '0'), '.')"
    found = f"ltrim(CASE WHEN contains({value}, '.') THEN {found} ELSE {value} END, '+')"
    arms = [f"WHEN {text(key)} THEN {text(name)}" for key, name in short.items()]
    return f"CASE WHEN {plain} THEN CASE {found} {' '.join(arms)} ELSE {value} END ELSE {value} END"


def typed(value: str, kind: str, column: Column) -> str:
    """Return a value in the contract's type; NULL where it is missing or does not fit.

    A text is read as the number, time or truth value that it spells; a number is never taken for a
    truth value, or the other way round.
    """
    if kind == "nothing" or (kind == "other" and column.role != "ignored"):
        return f"CAST(NULL AS {SQL[column.type]})"
    if column.type in ("category", "id"):
        found = as_text(value, kind)
        found = spelled_alike(found, column.categories)
        return without_stand_ins(found, column) if kind == "text" else found
    if column.type == "timestamp":
        return time_in(value, kind, column.format)
    if column.type == "boolean":
        if kind == "text":
            arms = "WHEN 'true' THEN true WHEN '1' THEN true WHEN 'false' THEN false WHEN '0' "
            return f"CASE lower({trimmed(value)}) {arms} THEN false END"
        return value if kind == "boolean" else "CAST(NULL AS BOOLEAN)"
    if kind in ("boolean", "time"):
        return f"CAST(NULL AS {SQL[column.type]})"
    double = number_in(value, column.decimal) if kind == "text" else f"{value}::DOUBLE"
    if column.type == "integer":
        return whole(value if column.decimal == "." else double, double)
    return f"CASE WHEN isnan({double}) THEN NULL ELSE {double} END" if kind == "float" else double


def without_stand_ins(value: str, column: Column) -> str:
    """Return a text, or NULL where it stands for a missing value: never if it is a category."""
    if column.type != "category" or column.role == "ignored":
        return value
    known = column.categories or ()
    texts_of = STAND_INS if column.role == "target" else (*CERTAIN, "")
    stands = [""] if column.allow_unknown else [name for name in texts_of if name not in known]
    return f"CASE WHEN {value} IN {texts(stands)} THEN NULL ELSE {value} END"


def given(value: str, kind: str, column: Column) -> str:
    """Return whether there is a value where `typed` has none."""
    if kind == "nothing":
        return "false"
    if kind == "float":
        return f"({value} IS NOT NULL AND NOT isnan({value}))"
    if kind != "text" or column.type == "id":
        return f"({value} IS NOT NULL)"
    stands = STAND_INS + (NO_DATES if column.type == "timestamp" else ())
    missing = f"coalesce({trimmed(value)} IN {texts(stands)}, true)"
    return f"(NOT {missing})"


class Cell(NamedTuple):
    """A value of a column of `rows`, as SQL."""

    source: str
    typed: str  # in the contract's type
    given: str  # whether there is a value

    @property
    def misfit(self) -> str:
        return f"({self.typed}) IS NULL AND {self.given}"


def cells(rows: Rows, columns: Mapping[str, Column]) -> dict[str, Cell]:
    """Return those of `columns` that a table has."""
    found = {}
    for place, (name, kind) in enumerate(zip(rows.names, rows.kinds, strict=True)):
        if column := columns.get(name):
            source = f"c{place}"
            found[name] = Cell(source, typed(source, kind, column), given(source, kind, column))
    return {name: found[name] for name in columns if name in found}


def rules(value: str, name: str, column: Column) -> Iterator[tuple[str, str]]:
    """Give what a value in the contract's type must not be, as SQL, and the reason it then gets."""
    if not column.nullable:
        yield f"{value} IS NULL", f"{name} is missing"
    if column.type in ("number", "integer"):
        low, high = map(number, column.limits)
        yield f"{value} < {low} OR {value} > {high}", f"{name} is out of range"
    if column.categories is not None and not column.allow_unknown:
        known = texts(column.categories)
        yield f"{value} NOT IN {known}", f"{name} is not one of the categories"


def check_table(table: pa.Table, columns: Mapping[str, Column]) -> tuple[pa.Table, Reasons]:
    """Return the columns in their types, and what breaks the contract in each row ("" if nothing).

    Values that do not fit their type come out as missing ones; a column that the table lacks is
    not among those returned.
    """
    with engine.registered(table) as rows:
        present = cells(rows, columns)
        value = {name: f"t{place}" for place, name in enumerate(present)}
        arms = []
        for name, column in columns.items():
            if name not in present:
                arms.append(f"WHEN true THEN {text(f'{name}: missing')}")
                continue
            unfit = f"{value[name]} IS NULL AND {present[name].given}"
            arms.append(f"WHEN {unfit} THEN {text(f'{name} is not of type {column.type}')}")
            broken = rules(value[name], name, column)
            arms += [f"WHEN {rule} THEN {text(reason)}" for rule, reason in broken]
        cast = "".join(f", {cell.typed} AS {value[name]}" for name, cell in present.items())
        reason = f"CASE {' '.join(arms)} ELSE '' END AS reason"
        shown = ", ".join([*value.values(), reason])
        sql = f"SELECT {shown} FROM (SELECT *{cast} FROM rows)"
        found = rows.connection.sql(sql).to_arrow_table()
    reasons = found["reason"].to_numpy()
    return found.drop_columns(["reason"]).rename_columns(list(present)), reasons


def latest_now() -> pd.Timestamp:
    """Return the time it is where it is latest: times without a zone are often local ones."""
    return pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(hours=14)
