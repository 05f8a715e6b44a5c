"""Insert and read predictions."""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain

import msgspec
import numpy as np
import sqlalchemy as sa

from mlops_loop.contract.values import Row
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.scoring.predictions import Output

# One statement for a request: the database takes its rows apart while the server goes on, and
# Python's lock is not asked for at each of them. For SQLite `places` has each row's first byte and
# length: so 1,000 rows take 3.7 ms; as JSON in JSON, which it parses three times, they took 6.5. An
# id that is there already is left alone: a request may be written again if it is unknown whether
# it was.
INSERT = """
INSERT INTO predictions (id, time, key_name, model_version, variant, paired_with, output, features,
                         latency_ms)
SELECT CAST(:prefix AS text) || {row}, :time, CAST(:key_name AS varchar(64)), :model_version,
       :variant, CAST(:paired AS text) || {row}, {output}, {features}, :latency_ms
FROM {rows} WHERE true ON CONFLICT (id) DO NOTHING
"""
PARTS = {
    "sqlite": {
        "row": "printf('%04x', key)",
        "output": "CAST(substr(pair, 1, instr(pair, x'0a') - 1) AS TEXT)",
        "features": "CAST(substr(pair, instr(pair, x'0a') + 1) AS TEXT)",
        "rows": "(SELECT key, substr(:rows, value >> 32, value & 0xffffffff) AS pair "
        "FROM json_each(:places))",
    },
    "postgresql": {
        "row": "lpad(to_hex(n - 1), 4, '0')",
        "output": "CAST(output AS json)",
        "features": "CAST(features AS json)",
        "rows": "unnest(CAST(:outputs AS text[]), CAST(:features AS text[])) "
        "WITH ORDINALITY AS line (output, features, n)",
    },
}
TIME = sa.bindparam("time", type_=sa.DateTime(timezone=True))
INSERTS = {name: sa.text(INSERT.format(**parts)).bindparams(TIME) for name, parts in PARTS.items()}
ENCODER = msgspec.json.Encoder()


class Entry(msgspec.Struct, omit_defaults=True):
    """The predictions of one request, each of which is a row of the log.

    `prefix` holds the first 28 hex digits of their ids; the other four are the row's number.
    `paired` is, for a shadow, the prefix of the answered request. `rows` is JSON lines: for each
    row its output, then its features.
    """

    prefix: str
    time: datetime  # UTC
    key_name: str | None
    model_version: str
    variant: str
    paired: str | None
    latency_ms: float
    rows: bytes = b""

    @property
    def row_count(self) -> int:
        return self.rows.count(b"\n") // 2


def to_lines(outputs: Sequence[Output], features: Sequence[msgspec.Struct | Row]) -> bytes:
    """Return the rows of an entry."""
    return ENCODER.encode_lines(list(chain.from_iterable(zip(outputs, features, strict=True))))


def insert_predictions(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Insert all rows of the entries; those whose ids are there already stay as they are."""
    dialect = connection.dialect.name
    rows_of = sqlite_rows if dialect == "sqlite" else postgres_rows
    values = [msgspec.structs.asdict(entry) | rows_of(entry.rows) for entry in entries]
    connection.execute(INSERTS[dialect], values)


def sqlite_rows(rows: bytes) -> dict[str, bytes | str]:
    """Return the lines, and of each pair its first byte, from 1, and its length: a 32-bit half."""
    ends = np.flatnonzero(np.frombuffer(rows, np.uint8) == ord("\n"))[1::2]
    starts = np.concatenate([[0], ends + 1])[:-1]
    places = (starts + 1 << 32) + ends - starts
    return {"rows": rows, "places": str(places.tolist())}


def postgres_rows(rows: bytes) -> dict[str, list[str]]:
    lines = rows.decode().split("\n")
    return {"outputs": lines[:-1:2], "features": lines[1::2]}


def read_predictions(engine: sa.Engine, *prefixes: str) -> Sequence[sa.Row[tuple[object, ...]]]:
    """Return the rows, in their order, of the first of these requests that is in the log."""
    ids = PREDICTIONS.c.id
    first = sa.select(sa.func.min(ids)).where(ids.in_([f"{prefix}0000" for prefix in prefixes]))
    with engine.connect() as connection:
        if not (found := connection.scalar(first)):
            return []
        wanted = ids.between(found, f"{found[:28]}ffff")
        return connection.execute(sa.select(PREDICTIONS).where(wanted).order_by(ids)).all()
