"""JSON lines: one pass finds the types that hold for all lines, another reads the rows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from mlops_loop.base.errors import Failure
from mlops_loop.data.source.remote import first_line
from mlops_loop.data.source.rows import BLOCK, check_names


def read_json(path: Path, name: str) -> Iterator[pa.Table]:
    """Give the rows of JSON lines in the types that hold for all lines."""
    try:
        types = types_of(path, name)
        check_names(types.names, name)
        for block in blocks(path):
            yield parse(block, explicit_schema=types, unexpected_field_behavior="ignore")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise mistake(path, name, error) from None


def types_of(path: Path, name: str) -> pa.Schema:
    """Return the types that hold for all lines; times are texts, as other lines may hold others."""
    types = pa.schema([])
    for number, block in enumerate(blocks(path)):
        if not number and block.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            lines = "one object in each line, as `jq -c '.[]'` writes them"
            raise Failure(f"{name} is a JSON array: JSON lines are needed, {lines}")
        table = parse(block)
        table.validate(full=True)  # UTF-8, too
        found = [
            field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field
            for field in table.schema
        ]
        types = pa.unify_schemas([types, pa.schema(found)], promote_options="permissive")
    return types


def parse(block: bytes, **options: object) -> pa.Table:
    whole = pa.json.ReadOptions(block_size=len(block) + 1)
    return pa.json.read_json(pa.BufferReader(block), whole, pa.json.ParseOptions(**options))


def mistake(path: Path, name: str, error: Exception) -> Failure:
    """Return what is wrong with a file that cannot be parsed, and in which line."""
    lines = (line for block in blocks(path) for line in block.splitlines())
    for number, line in enumerate(lines, 1):
        try:
            fine = not line.strip() or isinstance(json.loads(line), dict)
        except UnicodeDecodeError:
            return Failure(f"{name}, line {number:,}: not UTF-8: save the file as UTF-8")
        except ValueError:
            fine = False
        if not fine:
            return Failure(f"{name}, line {number:,}: not a JSON object")
    return Failure(f"{name}: its lines do not fit together: {first_line(error)}")


def blocks(path: Path) -> Iterator[bytes]:
    """Give whole lines, about BLOCK bytes at a time."""
    with pa.input_stream(path) as stream:
        rest = b""
        while part := stream.read(BLOCK):
            lines, newline, rest = (rest + part).rpartition(b"\n")
            if lines.strip():
                yield lines + newline
        if rest.strip():
            yield rest
