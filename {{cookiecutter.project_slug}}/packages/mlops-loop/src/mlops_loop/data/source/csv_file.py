"""CSV files: find delimiter and header, read all as text, name the line of a mistake."""

import csv
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.data import engine
from mlops_loop.data.engine import path_text, text
from mlops_loop.data.source.remote import first_line

BLOCK = 1 << 24  # bytes that a line may have
HEAD = 1 << 20  # bytes in which a CSV file's header and delimiter are looked for
LINES = 10  # that tell the delimiter
EXCEL_LINE = re.compile(r'"?sep=(.)"?')
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")
MISTAKES = {
    "INVALID ENCODING": "not UTF-8: save the file as UTF-8, as `iconv -f cp1252 -t utf-8` does",
    "UNQUOTED VALUE": "a quotation mark is not closed, or one is inside a text: correct the line",
    "LINE SIZE OVER MAXIMUM": "longer than a line may be: is a quotation mark not closed?",
}
csv.field_size_limit(BLOCK)


class Dialect(NamedTuple):
    delimiter: str
    header: list[str]
    skipped: int  # lines before the header


def query(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> tuple[list[str], str]:
    """Return the query for all columns as texts. The first, if it has no name, is called `index`,
    as in pandas; another one without a name is left out if it holds nothing.
    """
    dialect = find_dialect(path, name)
    names = list(dialect.header)
    names[0] = names[0] or ("" if "index" in names else "index")
    sql = f"SELECT * FROM {scan(path, dialect)}"
    if nameless := [place for place, column in enumerate(names) if not column]:
        counts = ", ".join(f"count(c{place})" for place in nameless)
        (filled,) = connection.sql(f"SELECT {counts} FROM ({sql})").fetchall()
        for place, count in zip(nameless, filled, strict=True):
            if count:
                raise Failure(f"{name}: column {place + 1} has no name: give it one")
        kept = ", ".join(f"c{place}" for place in range(len(names)) if place not in nameless)
        sql = f"SELECT {kept} FROM ({sql})"
    return [column for column in names if column], sql


def scan(path: Path, dialect: Dialect, options: str = "") -> str:
    types = ", ".join(f"c{place}: 'VARCHAR'" for place in range(len(dialect.header)))
    # Files with few columns and long texts are read as well.
    return (
        f"read_csv({path_text(path)}, auto_detect=false, header=true, quote='\"', escape='\"', "
        f"delim={text(dialect.delimiter)}, comment='', columns={{{types}}}, "
        f"max_line_size={BLOCK}, buffer_size={2 * BLOCK}, skip={dialect.skipped}, "
        f"hive_partitioning=false{options})"
    )


def mistake(path: Path, name: str) -> Failure | None:
    """Return the first line that cannot be read, and what is wrong with it."""
    dialect = find_dialect(path, name)
    asked = "SELECT line, error_type, error_message, csv_line FROM reject_errors ORDER BY line"
    rejects = ", store_rejects=true, rejects_limit=1"
    with engine.connect(threads=1) as connection:
        try:
            connection.sql(f"SELECT count(*) FROM {scan(path, dialect, rejects)}").fetchall()
        except duckdb.Error:
            return other_line_end(path, name)
        found = connection.sql(asked).fetchall()
    for line, kind, message, content in found:
        what = MISTAKES.get(kind) or first_line(ValueError(message))
        if kind in ("TOO MANY COLUMNS", "MISSING COLUMNS"):
            fields = len(next(csv.reader([content or ""], delimiter=dialect.delimiter), []))
            what = f"{fields} fields, but the header has {len(dialect.header)}: correct the line"
        return Failure(f"{name}, line {line:,}: {what}")
    return None


def other_line_end(path: Path, name: str) -> Failure | None:
    """Return which line ends in LF where line 1 ends in CR LF, or vice versa: to DuckDB an error.

    It could only read such files if it let rows have too many fields.
    """
    with pa.input_stream(path) as stream, io.BufferedReader(stream) as lines:
        first = next(lines).endswith(b"\r\n")
        for number, line in enumerate(lines, 2):
            if line.endswith(b"\r\n") != first:
                what = "ends in another way than line 1: run `dos2unix` on it"
                return Failure(f"{name}, line {number:,}: {what}")
    return None


def find_dialect(path: Path, name: str) -> Dialect:
    """Return a CSV file's delimiter, with which its first rows have most columns, and its header.

    DuckDB's own sniffer is not asked: it takes the lines from which all have as many columns as
    the last for the table, and says nothing of those before.
    """
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD)
    if b"\0" in head:
        raise Failure(f"{name} is not text: is it a CSV file? If so, save it as UTF-8")
    content = head.decode("utf-8-sig", errors="surrogateescape")
    first, _, rest = content.partition("\n")
    told = EXCEL_LINE.fullmatch(first.strip())
    content = rest if told else content
    if not content.strip():
        raise Failure(f"{name} is empty: a header and rows are needed")
    cut = len(head) == HEAD
    try:
        found = [(each, first_rows(content, each, cut)) for each in (told[1] if told else ",;\t|")]
    except csv.Error as error:
        raise Failure(f"{name} is not a CSV file: {error}") from None
    delimiter, (header, *below) = max(found, key=lambda pair: common(pair[1]))
    if re.search("[\udc80-\udcff]", "".join(header)):
        raise Failure(f"{name}, line 1: {MISTAKES['INVALID ENCODING']}")
    if not below and not cut:
        raise Failure(f"{name} has no rows: a table with rows is needed")
    refuse_other_lines(header, below, f"{name}, line {2 if told else 1}")
    blank = len(content) - len(content.lstrip("\r\n"))
    return Dialect(delimiter, header, bool(told) + content[:blank].count("\n"))


def first_rows(content: str, delimiter: str, cut: bool) -> list[list[str]]:
    """Return the first rows of a text, less the last one if it may be cut off."""
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    found = [row for row in rows if row]
    return found[:-1][:LINES] if cut and len(found) > 1 else found[:LINES]


def common(found: list[list[str]]) -> int:
    """Return how many columns most of the rows have, so that a title's line does not count."""
    return sorted(map(len, found))[len(found) // 2]


def refuse_other_lines(header: list[str], below: list[list[str]], where: str) -> None:
    """Refuse a title above the header, and a table without one."""
    filled = [cell for cell in header if cell.strip()]
    if below and len(filled) < 2 < min(map(len, below)):
        what = f"{len(filled)} name for {common(below)} columns: is it a title above the header?"
        raise Failure(f"{where}: {what} Remove the lines above the header")
    numbers = [cell for cell in filled if NUMBER.fullmatch(cell.strip())]
    if numbers and len(numbers) * 2 >= len(filled) and not may_be_names(numbers):
        what = f"numbers where the columns' names belong, such as {numbers[0]}"
        raise Failure(f"{where}: {what}: put a header above")


def may_be_names(numbers: list[str]) -> bool:
    """Return whether numbers are counted up, as pandas names columns, or years."""
    if not all(each.isdigit() for each in numbers):
        return False
    whole = list(map(int, numbers))
    steps = {later - earlier for earlier, later in pairwise(whole)}
    return steps <= {1} or all(1900 <= each <= 2100 for each in whole)
