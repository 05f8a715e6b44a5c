"""CSV files: guess the delimiter, read all as text, and name the line of a mistake."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from mlops_loop.base.errors import Failure
from mlops_loop.data.source.remote import first_line
from mlops_loop.data.source.rows import BLOCK, MAX_COLUMNS, check_names

HEAD = 1 << 20  # bytes in which a CSV file's header and delimiter are looked for
DELIMITERS = ",;\t|"
csv.field_size_limit(BLOCK)


def read_csv(path: Path, name: str, missing: Sequence[str]) -> Iterator[pa.Table]:
    """Give all columns as texts. A first column without a name, as pandas writes it, is called
    `index`.
    """
    delimiter, header = dialect(path, name)
    names = ["index" if header[0] == "" and "index" not in header else header[0], *header[1:]]
    check_names(names, name)
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        null_values=list(missing),
        strings_can_be_null=True,
    )
    try:
        with pa.input_stream(path, buffer_size=BLOCK) as stream:
            for batch in pa.csv.open_csv(
                stream, pa.csv.ReadOptions(block_size=BLOCK), parse, convert
            ):
                yield pa.Table.from_batches([batch]).rename_columns(names)
    except pa.ArrowInvalid as error:
        raise mistake(path, name, delimiter, len(header), error) from None


def dialect(path: Path, name: str) -> tuple[str, list[str]]:
    """Return a CSV file's delimiter, with which its first rows have most columns, and its
    header.
    """
    with pa.input_stream(path) as stream:
        head = stream.read(HEAD)
    if b"\0" in head:
        raise Failure(f"{name} is not text: is it a CSV file? If so, save it as UTF-8")
    text = head.decode("utf-8-sig", errors="surrogateescape")

    def rows(delimiter: str) -> list[list[str]]:
        found = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row
        ]
        return found[:-1][:10] if len(head) == HEAD and len(found) > 1 else found[:10]

    try:
        found = {delimiter: rows(delimiter) for delimiter in DELIMITERS}
    except csv.Error as error:
        raise Failure(f"{name} is not a CSV file: {error}") from None
    if not found[","] or not text.strip():
        raise Failure(f"{name} is empty: a header and rows are needed")
    best = max(DELIMITERS, key=lambda delimiter: min(map(len, found[delimiter])))
    if re.search("[\udc80-\udcff]", "".join(found[best][0])):
        raise Failure(f"{name}, line 1: not UTF-8: save the file as UTF-8")
    if len(found[best]) == 1 and len(head) < HEAD and len(found[best][0]) <= MAX_COLUMNS:
        raise Failure(f"{name} has no rows: a table with rows is needed")
    return best, found[best][0]


def mistake(path: Path, name: str, delimiter: str, columns: int, error: Exception) -> Failure:
    """Return what is wrong with a CSV file that cannot be parsed, and in which line."""
    with io.TextIOWrapper(
        pa.input_stream(path), "utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        reader = csv.reader(text, delimiter=delimiter)
        try:
            for row in reader:
                where = f"{name}, line {reader.line_num:,}"
                if bad := re.search("[\udc80-\udcff]", "".join(row)):
                    byte = f"byte 0x{ord(bad[0]) - 0xDC00:x}"
                    return Failure(f"{where}: {byte} is not UTF-8: save the file as UTF-8")
                if row and len(row) != columns:
                    what = f"{len(row)} fields, but the header has {columns}"
                    return Failure(f"{where}: {what}: correct the line")
        except csv.Error as wrong:
            error = wrong
    return Failure(f"{name} is not a valid CSV file: {first_line(error)}")
