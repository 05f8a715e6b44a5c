"""Insert and read predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from mlops_loop.contract.values import Row
from mlops_loop.prediction_log.tables import PREDICTIONS, select_by_id
from mlops_loop.scoring.predictions import Prediction

# The database unpacks the rows of one request: that is several times faster than to bind them one
# by one, and the server goes on meanwhile. An id that is there already is left alone, so that a
# request may be written again when it is unknown whether it was.
INSERT_SQL = {
    "sqlite": sa.text(
        "INSERT INTO predictions (id, time, key_name, model_version, variant, paired_with, "
        "features, output, latency_ms) "
        "SELECT :prefix || printf('%04x', key), :time, :key_name, :model_version, :variant, "
        ":paired || printf('%04x', key), json_extract(value, '$[0]'), "
        "json_extract(value, '$[1]'), :latency_ms "
        "FROM json_each(:rows) WHERE true ON CONFLICT (id) DO NOTHING"
    ),
    "postgresql": sa.text(  # not value -> 0, which fails for a text with \u0000 in it
        "INSERT INTO predictions (id, time, key_name, model_version, variant, paired_with, "
        "features, output, latency_ms) "
        "SELECT CAST(:prefix AS text) || lpad(to_hex(n - 1), 4, '0'), :time, :key_name, "
        ":model_version, :variant, CAST(:paired AS text) || lpad(to_hex(n - 1), 4, '0'), "
        "pair[1], pair[2], :latency_ms "
        "FROM json_array_elements(CAST(:rows AS json)) WITH ORDINALITY AS line (value, n), "
        "LATERAL (SELECT array_agg(part) AS pair FROM json_array_elements(value) AS part) "
        "AS parts ON CONFLICT (id) DO NOTHING"
    ),
}


class Entry(msgspec.Struct, omit_defaults=True):
    """The predictions of one request, each of which is a row of the log.

    `prefix` holds the first 28 hex digits of their ids; the other four are the row's number.
    `paired` is, for a shadow, the prefix of the answered request. `rows` is JSON:
    [[features, output], ...].
    """

    prefix: str
    time: datetime  # UTC
    key_name: str | None
    model_version: str
    variant: str
    paired: str | None
    latency_ms: float
    rows: bytes = b"[]"


@dataclass(frozen=True)
class LoggedPrediction:
    """A row of the table `predictions`."""

    id: str
    time: datetime
    key_name: str | None
    model_version: str
    variant: str
    paired_with: str | None
    features: Row
    output: Prediction
    latency_ms: float


def insert_predictions(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Insert all rows of the entries; those whose ids are there already stay as they are."""
    statement = INSERT_SQL.get(connection.dialect.name)
    if statement is None:
        insert_one_by_one(connection, entries)
        return
    bound = statement.bindparams(sa.bindparam("time", type_=sa.DateTime(timezone=True)))
    values = [msgspec.structs.asdict(entry) | {"rows": entry.rows.decode()} for entry in entries]
    connection.execute(bound, values)


def insert_one_by_one(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Do the same in any other database that SQLAlchemy knows."""
    rows = {str(row["id"]): row for entry in entries for row in entry_rows(entry)}
    present = select_by_id(connection, PREDICTIONS.c.id, list(rows))
    if new := [row for name, row in rows.items() if name not in present]:
        connection.execute(sa.insert(PREDICTIONS), new)


def entry_rows(entry: Entry) -> list[dict[str, object]]:
    """Return the rows of the table that an entry stands for."""
    common = msgspec.structs.asdict(entry)
    for name in ("prefix", "paired", "rows"):
        del common[name]
    return [
        common
        | {
            "id": f"{entry.prefix}{number:04x}",
            "features": features,
            "output": output,
            "paired_with": entry.paired and f"{entry.paired}{number:04x}",
        }
        for number, (features, output) in enumerate(msgspec.json.decode(entry.rows))
    ]


def read_predictions(engine: sa.Engine, prefix: str) -> list[LoggedPrediction]:
    """Return the rows of one request in their order; none if it is not in the log."""
    wanted = PREDICTIONS.c.id.between(f"{prefix}0000", f"{prefix}ffff")
    query = sa.select(PREDICTIONS).where(wanted).order_by(PREDICTIONS.c.id)
    with engine.connect() as connection:
        return [LoggedPrediction(*row) for row in connection.execute(query)]
