"""CSV files: find delimiter and header, read all as text by DuckDB, name the line of a mistake."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa

from mlops_loop.base.errors import Failure
from mlops_loop.data import engine
from mlops_loop.data.source.remote import first_line
from mlops_loop.data.source.rows import BLOCK, MAX_COLUMNS, check_names

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


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    header: list[str]
    skipped: int  # lines before the header


def read_csv(path: Path, name: str) -> Iterator[pa.Table]:
    """Give all columns as texts. The first, if it has no name, is called `index`, as in pandas;
    another one without a name is left out if it holds nothing.
    """
    dialect = find_dialect(path, name)
    names = list(dialect.header)
    names[0] = names[0] or ("" if "index" in names else "index")
    kept = [place for place, column in enumerate(names) if column]
    check_names([names[place] for place in kept], name)
    with engine.connect(threads=1) as connection:
        try:
            size = engine.rows_at_a_time(names)
            for batch in connection.sql(scan(path, dialect)).to_arrow_reader(size):
                table = pa.Table.from_batches([batch])
                for place in range(len(names)):
                    if place not in kept and table.column(place).null_count < len(table):
                        raise Failure(f"{name}: column {place + 1} has no name: give it one")
                yield table.select(kept).rename_columns([names[place] for place in kept])
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            what = f" cannot be read, it may be cut off or broken: {first_line(error)}"
            if line := other_line_end(path):
                what = f", line {line:,}: ends in another way than line 1: run `dos2unix` on it"
            raise Failure(f"{name}{what}") from None
        refuse_mistakes(connection, name, dialect)


def other_line_end(path: Path) -> int:
    """Return the first line that ends in LF where line 1 ends in CR LF, or vice versa; 0 if none.

    DuckDB reads such files only if it may also take rows with too many fields.
    """
    try:
        with pa.input_stream(path) as stream, io.BufferedReader(stream) as lines:
            first = next(lines).endswith(b"\r\n")
            found = (n for n, line in enumerate(lines, 2) if line.endswith(b"\r\n") != first)
            return next(found, 0)
    except OSError:
        return 0


def scan(path: Path, dialect: Dialect) -> str:
    """Return the query for all rows of a CSV file: every column as text, c0, c1, ..."""
    types = ", ".join(f"c{place}: 'VARCHAR'" for place in range(len(dialect.header)))
    no_pattern = re.sub(r"([*?\[])", r"[\1]", str(path))  # DuckDB takes [1] for one
    # Files with few columns and long texts are read as well.
    return (
        f"SELECT * FROM read_csv({engine.text(no_pattern)}, auto_detect=false, header=true, "
        f"delim={engine.text(dialect.delimiter)}, quote='\"', escape='\"', comment='', "
        f"columns={{{types}}}, max_line_size={BLOCK}, buffer_size={2 * BLOCK}, "
        f"skip={dialect.skipped}, store_rejects=true, rejects_limit=1)"
    )


def refuse_mistakes(connection: duckdb.DuckDBPyConnection, name: str, dialect: Dialect) -> None:
    """Raise Failure for the first row that was left out, as it cannot be read."""
    asked = "SELECT line, error_type, error_message, csv_line FROM reject_errors ORDER BY line"
    for line, kind, message, content in connection.execute(asked).fetchall():
        what = MISTAKES.get(kind) or first_line(ValueError(message))
        if kind in ("TOO MANY COLUMNS", "MISSING COLUMNS"):
            fields = len(next(csv.reader([content or ""], delimiter=dialect.delimiter), []))
            what = f"{fields} fields, but the header has {len(dialect.header)}: correct the line"
        raise Failure(f"{name}, line {line:,}: {what}")


def find_dialect(path: Path, name: str) -> Dialect:
    """Return a CSV file's delimiter, with which its first rows have most columns, and its header.

    DuckDB's own sniffer is not asked: it takes the lines from which all have as many columns as
    the last for the table, and says nothing of those before.
    """
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD)
    if b"\0" in head:
        raise Failure(f"{name} is not text: is it a CSV file? If so, save it as UTF-8")
    text = head.decode("utf-8-sig", errors="surrogateescape")
    first, _, rest = text.partition("\n")
    told = EXCEL_LINE.fullmatch(first.strip())
    text = rest if told else text
    if not text.strip():
        raise Failure(f"{name} is empty: a header and rows are needed")
    try:
        found = [
            (each, rows(text, each, len(head) == HEAD)) for each in (told[1] if told else ",;\t|")
        ]
    except csv.Error as error:
        raise Failure(f"{name} is not a CSV file: {error}") from None
    delimiter, (header, *below) = max(found, key=lambda pair: common(pair[1]))
    if re.search("[\udc80-\udcff]", "".join(header)):
        raise Failure(f"{name}, line 1: {MISTAKES['INVALID ENCODING']}")
    if not below and len(head) < HEAD and len(header) <= MAX_COLUMNS:
        raise Failure(f"{name} has no rows: a table with rows is needed")
    refuse_other_lines(header, below, f"{name}, line {2 if told else 1}")
    blank = len(text) - len(text.lstrip("\r\n"))
    return Dialect(delimiter, header, bool(told) + text[:blank].count("\n"))


def rows(text: str, delimiter: str, cut: bool) -> list[list[str]]:
    """Return the first rows of a text, less the last one if it may be cut off."""
    found = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
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
