"""Pieces: what is scored at a time, and which of them are done.

A piece is a file, or some row groups of a large Parquet file. Its key is a hash of all that its
answers depend on. It is done if the working folder, which lies beside OUTPUT, holds both its parts
and KEY.json, which is written last.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
from mlops_loop.batch.score import Given
from mlops_loop.data.source.partitions import Keys
from mlops_loop.data.source.remote import about, reached
from mlops_loop.scoring.bundle import Bundle

ROWS = 500_000  # of a Parquet file in one piece: it ends with a row group
LARGE = 16 * 2**20  # bytes; a smaller file is one piece
KINDS = "good", "bad"
STAMPS = "size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated"
Span = tuple[int, int]


class Piece(NamedTuple):
    key: str
    source: str
    output: str
    keys: Keys
    span: Span | None

    def part(self, kind: str) -> str:
        return f"{self.key}-{kind}{PurePosixPath(self.output).suffix}"


class Mark(TypedDict):
    """What KEY.json holds."""

    rows: list[int]  # scored, and rejected
    renamed: list[str]


def pieces(given: Mapping[str, Given], bundle: Bundle) -> list[Piece]:
    """Return the pieces of each output, in the order of their rows."""
    found = []
    for output, (source, keys) in given.items():
        with reached(source) as (system, place):
            facts = about(system, place)
            stamp = [str(facts.get(name)) for name in STAMPS]
            spans: list[Span | None] = [None]
            size = facts.get("size")
            large = isinstance(size, int) and size >= LARGE
            if large and source.endswith(".parquet") and output.endswith(".parquet"):
                # What is broken is said by the worker that reads it.
                with suppress(pa.ArrowException, OSError), system.open(place, "rb") as file:
                    spans = spans_of(pq.read_metadata(file))
        for span in spans:
            facts_of_piece = [bundle.sha256, source, output, keys, stamp, span]
            digest = hashlib.sha256(json.dumps(facts_of_piece).encode()).hexdigest()
            found.append(Piece(digest[:20], source, output, keys, span))
    return found


def spans_of(metadata: pq.FileMetaData) -> list[Span | None]:
    """Return the rows of each piece; [None] is the whole file."""
    spans: list[Span | None] = []
    first = after = 0
    for group in range(metadata.num_row_groups):
        after += metadata.row_group(group).num_rows
        if after - first >= ROWS or (after > first and group == metadata.num_row_groups - 1):
            spans.append((first, after))
            first = after
    # DuckDB finds the rows by a column of this name.
    taken = "file_row_number" in metadata.schema.to_arrow_schema().names
    return [None] if taken or not spans else spans


def marks(folder: str, among: list[Piece]) -> dict[str, Mark]:
    """Return the marks of those pieces that are done."""
    with reached(folder) as (system, place):
        system.invalidate_cache()
        names = {Path(path).name for path in system.ls(place, detail=False)}
        done = [one for one in among if names >= {f"{one.key}.json", *map(one.part, KINDS)}]
        texts = system.cat([f"{place}/{one.key}.json" for one in done]) if done else {}
        return {Path(path).stem: json.loads(text) for path, text in texts.items()}


def by_output(found: list[Piece]) -> Iterator[list[Piece]]:
    grouped: dict[str, list[Piece]] = {}
    for one in found:
        grouped.setdefault(one.output, []).append(one)
    yield from grouped.values()
