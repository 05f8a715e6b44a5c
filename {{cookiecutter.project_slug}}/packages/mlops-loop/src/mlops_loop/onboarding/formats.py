"""Formats of other tools: `schema export` and `schema import`, as TensorFlow Metadata."""

from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import SCHEMA, TRAIN
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.contract.values import Task
from mlops_loop.contract.versions import VERSION
from mlops_loop.onboarding.infer.adapt import dump, head
from mlops_loop.onboarding.infer.columns import tidy
from mlops_loop.onboarding.infer.target import FEW_NUMBERS, YES

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from tensorflow_metadata.proto.v0 import schema_pb2 as tfmd

    from mlops_loop.contract.tensorflow_metadata import Keys, Read

TEXT, BINARY = ".pbtxt", ".pb"


def export(file: Path, statistics: Path | None, _: str) -> None:
    """Write the contract as a TensorFlow Metadata schema, and the training window's statistics."""
    need_tfmd()
    from mlops_loop.contract.tensorflow_metadata import to_message
    from mlops_loop.onboarding import statistics as tables

    paths = [file, *([statistics] if statistics else [])]
    for path in paths:
        if path.suffix not in (TEXT, BINARY) or path.is_dir():
            raise Failure(f"{path}: the name must end in {TEXT} (text) or {BINARY} (binary)")
    schema = load_schema()
    contents = [as_bytes(file, to_message(schema))]
    if statistics:
        contents.append(as_bytes(statistics, tables.statistics(TRAIN, schema)))
    for path, content in zip(paths, contents, strict=True):
        with files.writing(path) as tmp_path:
            tmp_path.write_bytes(content)
    print(f"written: {', '.join(map(str, paths))}")


def import_(
    file: Path, target: str | None, timestamp: str | None, task: Task | None, force: bool
) -> None:
    """Write schema.yaml from a TensorFlow Metadata schema; print what is left out of it."""
    if SCHEMA.exists() and not force:
        raise Failure(f"{SCHEMA} is there already: to replace it add --force")
    need_tfmd()
    from mlops_loop.contract.tensorflow_metadata import from_message

    message = read(file)
    try:
        found = from_message(message)
        table = found.table if "target" in found.table else new_table(found, target, task)
        place_time(found, table, timestamp)
    except Failure as failure:
        raise Failure(f"{file}: {failure}") from None
    table = {"mlops_loop": ".".join(VERSION.split(".")[:2]), "name": file.stem} | table
    parts = [*head(), *(dump(key, value) for key, value in table.items()), "columns:\n"]
    for name, keys in found.columns.items():
        tidied = {key: tidy(one) if type(one) is float else one for key, one in keys.items()}
        parts.append(indent(dump(name, tidied), "  "))
    schema = parse_yaml("".join(parts), f"{file} as {SCHEMA}", Schema)
    files.write_text(SCHEMA, "".join(parts))
    for note in found.left_out:
        print(note)
    if unused := [name for name in schema.columns if name not in schema.used]:
        print(f"ignored, correct what you know better: {', '.join(unused)}")
    print(f"written: {SCHEMA}; params.yaml names its table: ingest.source")


def need_tfmd() -> None:
    if not find_spec("tensorflow_metadata"):
        raise Failure("tensorflow-metadata is not installed: uv sync --group tfmd")


def read(path: Path) -> "tfmd.Schema":
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow_metadata.proto.v0 import schema_pb2 as tfmd

    message = tfmd.Schema()
    try:
        if path.suffix == BINARY:
            message.ParseFromString(path.read_bytes())
        else:
            text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (text_format.ParseError, DecodeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise Failure(f"{path} is no TensorFlow Metadata schema: {reason}") from None
    if not message.feature:
        raise Failure(f"{path} has no feature: is it a TensorFlow Metadata schema?")
    return message


def as_bytes(path: Path, message: "Message") -> bytes:
    from google.protobuf import text_format

    if path.suffix == BINARY:
        return bytes(message.SerializeToString(deterministic=True))
    return str(text_format.MessageToString(message, as_utf8=True)).encode()


def new_table(found: "Read", target: str | None, task: Task | None) -> "Keys":
    """Return the table's keys for a schema that does not name its target; give that its role."""
    if target not in found.columns:
        names = ", ".join(found.columns)
        raise Failure(f"which column is predicted? --target COLUMN, one of {names}")
    keys = found.columns[target]
    if task != "regression":
        keys = with_classes(keys)
    found.columns[target] = keys | {"role": "target"}
    classes = keys.get("categories")
    if not isinstance(classes, list):
        return {"task": task or "regression", "target": target}
    if len(classes) != 2:
        return {"task": task or "multiclass-classification", "target": target}
    yes = [name for name in classes if name.strip().strip(".").casefold() in YES]
    positive = yes[0] if len(yes) == 1 else classes[-1]
    return {"task": task or "binary-classification", "target": target, "positive": positive}


def with_classes(keys: "Keys") -> "Keys":
    """Return a target's keys; few whole numbers, or truth values, are classes."""
    low, high = keys.get("minimum"), keys.get("maximum")
    if keys["type"] == "boolean":
        low, high = 0.0, 1.0
    elif keys["type"] != "integer":
        return keys
    if not (isinstance(low, float) and isinstance(high, float) and high - low < FEW_NUMBERS):
        return keys
    classes = list(map(str, range(int(low), int(high) + 1)))
    kept = {key: value for key, value in keys.items() if key not in ("minimum", "maximum")}
    return kept | {"type": "category", "categories": classes}


def place_time(found: "Read", table: "Keys", timestamp: str | None) -> None:
    """Give the column to split by its role; other times are ignored unless their tags differ."""
    if timestamp:
        if found.columns.get(timestamp, {}).get("type") != "timestamp":
            raise Failure(f"{timestamp!r} is no time: leave --timestamp out, or name another")
        found.columns[timestamp]["role"] = "timestamp"
        table["timestamp"] = timestamp
    for keys in found.columns.values():
        if keys["type"] == "timestamp":
            keys.setdefault("role", "ignored")
