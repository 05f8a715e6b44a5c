"""Prediction log: every prediction that was answered, and what came true, in any database of SQLAlchemy's."""

import sqlite3
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from mlops_loop.base.errors import Failure, redacted

LOG = sa.MetaData()
PLACE = 128  # letters of a place that the table of refusals keeps
PREDICTIONS = sa.Table(
    "predictions",
    LOG,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False, index=True),  # UTC
    sa.Column("key_name", sa.String(64)),  # of the API key
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column(
        "variant", sa.String(16), nullable=False, server_default="champion"
    ),  # or canary, shadow
    sa.Column("paired_with", sa.String(32)),  # of a shadow: the prediction that was answered
    sa.Column("features", sa.JSON, nullable=False),
    sa.Column("output", sa.JSON, nullable=False),  # {"label": ..., "probabilities": {...}}
    sa.Column("latency_ms", sa.Float, nullable=False),
)
OUTCOMES = sa.Table(
    "outcomes",
    LOG,
    sa.Column("prediction_id", sa.String(32), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),  # a class or a number
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),  # UTC, when it was recorded
)
REFUSALS = sa.Table(
    "refusals",  # requests that were not answered, added up over some seconds
    LOG,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column(
        "time", sa.DateTime(timezone=True), nullable=False, index=True
    ),  # UTC, of the last of them
    sa.Column(
        "kind", sa.String(32), nullable=False
    ),  # as the metric `errors` has it: contract, size, ...
    sa.Column(
        "place", sa.String(PLACE), nullable=False
    ),  # the column that broke the contract, if one did
    sa.Column("requests", sa.Integer, nullable=False),
)
WINDOWS = sa.Table(
    "windows",  # what `monitor` found, one row for each model and window
    LOG,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("start", sa.DateTime(timezone=True), nullable=False),  # UTC
    sa.Column("end", sa.DateTime(timezone=True), nullable=False),  # UTC, exclusive
    sa.Column("made", sa.DateTime(timezone=True), nullable=False),  # UTC
    sa.Column("summary", sa.JSON, nullable=False),  # as in summary.json
)
CHUNK = 5000  # rows that one statement names
READING = 300  # seconds until a statement is given up that reads many rows
WAITING = 5  # seconds until a connection, or a lock of PostgreSQL, is given up
BUSY = 10  # seconds until a lock of SQLite is given up
MUTEX = 7_151_409_386  # any number: PostgreSQL's lock of those who change tables or outcomes

# The rows of one request are unpacked by the database: that is several times faster than to bind them one by
# one, and the server can go on meanwhile. An id that is there already is left alone, so that a request may
# be written again when nobody knows whether it was.
UNPACK = {
    "sqlite": sa.text(
        "INSERT INTO predictions (id, time, key_name, model_version, variant, paired_with, features, output, "
        "latency_ms) SELECT :prefix || printf('%04x', key), :time, :key_name, :model_version, :variant, "
        ":paired || printf('%04x', key), json_extract(value, '$[0]'), json_extract(value, '$[1]'), "
        ":latency_ms FROM json_each(:rows) WHERE true ON CONFLICT (id) DO NOTHING"
    ),
    "postgresql": sa.text(  # not value -> 0, which fails for a text with \u0000 in it
        "INSERT INTO predictions (id, time, key_name, model_version, variant, paired_with, features, output, "
        "latency_ms) SELECT CAST(:prefix AS text) || lpad(to_hex(n - 1), 4, '0'), :time, :key_name, "
        ":model_version, :variant, CAST(:paired AS text) || lpad(to_hex(n - 1), 4, '0'), pair[1], pair[2], "
        ":latency_ms FROM json_array_elements(CAST(:rows AS json)) WITH ORDINALITY AS line (value, n), "
        "LATERAL (SELECT array_agg(part) AS pair FROM json_array_elements(value) AS part) AS parts "
        "ON CONFLICT (id) DO NOTHING"
    ),
}


class Entry(msgspec.Struct, omit_defaults=True):
    """The predictions of one request, of which each is a row of the log.

    `prefix` are the first 28 hex digits of their ids; the other four are the row's number. `paired` is, of a
    shadow, the prefix of the answered request. `rows` is JSON: [[features, output], ...].
    """

    prefix: str
    time: datetime  # UTC
    key_name: str | None
    model_version: str
    variant: str
    paired: str | None
    latency_ms: float
    rows: bytes = b"[]"


class Recorded(NamedTuple):
    """How many outcomes were new, there already, or replaced another value; positions of unknown ids."""

    recorded: int
    repeated: int
    corrected: int
    unknown: list[int]


def open_log(url: str, seconds: float = READING) -> sa.Engine:
    """Return an engine on the log's database, with its tables made or brought up to date if need be.

    Raises Failure if the database cannot be used. A statement fails after `seconds`, on PostgreSQL.
    """
    engine = connect(url, seconds)
    try:
        prepare(engine)
        return engine
    except SQLAlchemyError as error:
        raise unusable(error) from None


def unusable(error: Exception) -> Failure:
    return Failure(f"the prediction log, see PREDICTION_LOG_URL, cannot be used: {reason(error)}")


def reason(error: Exception) -> str:
    """Return the first line of what went wrong, without passwords."""
    return redacted((str(error).splitlines() or [type(error).__name__])[0])


def connect(url: str, seconds: float = READING) -> sa.Engine:
    """Return an engine on the database of the predictions, in which the audit log is too.

    It connects when it is used. Raises Failure for a wrong URL or a missing driver.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except (SQLAlchemyError, ImportError) as error:
        raise unusable(error) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", set_up_sqlite)
    elif engine.dialect.driver == "psycopg":
        be_patient(engine, seconds)
    return engine


def set_up_sqlite(connection: Any, record: Any) -> None:
    file = connection.execute("PRAGMA database_list").fetchone()[2]
    record.info["file"] = file, identity(file)
    for pragma in (
        f"busy_timeout = {BUSY * 1000}",
        "auto_vacuum = INCREMENTAL",  # of a new file, so that `prune` can make it smaller
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit is on the disk
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def identity(file: str) -> tuple[int, int]:
    """Return what tells a file from another one of the same name; zeros if it is not there."""
    with suppress(OSError):
        fact = Path(file).stat()
        return fact.st_dev, fact.st_ino
    return 0, 0


def lost(connection: sa.Connection) -> bool:
    """Return whether a SQLite file is no longer where it was: what is written to it, nobody would find."""
    file, before = connection.info.get("file", ("", None))
    return bool(file) and identity(file) != before


def be_patient(engine: sa.Engine, seconds: float) -> None:
    """Let PostgreSQL end a statement after `seconds`, and the driver if a hung server does not."""
    import psycopg

    limits = {"statement_timeout": seconds, "lock_timeout": min(WAITING, seconds)}

    def limited(work: Generator[Any, Any, Any], connection: Any) -> Generator[Any, Any, Any]:
        end = time.monotonic() + seconds + WAITING
        try:
            wanted = next(work)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > end:
                    connection.close()
                    raise psycopg.OperationalError("the server does not answer")
                wanted = work.send(ready)
        except StopIteration as done:
            return done.value

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
            return super().wait(limited(gen, self), *arguments, **options)

    def open_connection(_: Any, __: Any, arguments: Any, options: dict[str, Any]) -> Any:
        network = {"keepalives_idle": WAITING, "keepalives_interval": 2, "keepalives_count": 3}
        network |= {"connect_timeout": WAITING, "tcp_user_timeout": 2000 * WAITING}
        connection = Connection.connect(*arguments, **{**network, **options})
        for name, limit in limits.items():
            connection.execute(f"SET {name} = {round(limit * 1000)}")
        connection.execute("SET TIME ZONE 'UTC'")  # in which all times are read
        connection.commit()
        return connection

    sa.event.listen(engine, "do_connect", open_connection)


def prepare(engine: sa.Engine) -> None:
    """Make the tables, and add columns that the table of an older version lacks."""
    with engine.connect() as connection:
        if not missing(connection):
            return
    with engine.begin() as connection:
        alone(connection)
        LOG.create_all(connection)
        for column in missing(connection):
            text = CreateColumn(column).compile(dialect=engine.dialect)
            connection.execute(sa.DDL(f"ALTER TABLE {column.table.name} ADD COLUMN {text}"))  # type: ignore[no-untyped-call]


def missing(connection: sa.Connection) -> list[sa.Column[Any]]:
    """Return the columns that the database has not."""
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    there = {
        (name, column["name"])
        for name in tables & set(LOG.tables)
        for column in inspector.get_columns(name)
    }
    columns = [column for table in LOG.sorted_tables for column in table.columns]
    return [column for column in columns if (column.table.name, column.name) not in there]


def alone(connection: sa.Connection) -> None:
    """Wait until no other transaction holds this lock, and hold it to the end of this one."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MUTEX)))


def insert(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Write all rows of the entries; those whose ids are there already stay as they are."""
    statement = UNPACK.get(connection.dialect.name)
    if statement is None:
        return insert_rows(connection, entries)
    bound = statement.bindparams(sa.bindparam("time", type_=sa.DateTime(timezone=True)))
    values = [msgspec.structs.asdict(entry) | {"rows": entry.rows.decode()} for entry in entries]
    connection.execute(bound, values)
    return None


def insert_rows(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Do the same in a database of which we know no more than SQLAlchemy does."""
    rows = {}
    for entry in entries:
        common = msgspec.structs.asdict(entry)
        prefix, paired, pairs = common.pop("prefix"), common.pop("paired"), common.pop("rows")
        for number, (features, output) in enumerate(msgspec.json.decode(pairs)):
            row = {
                "features": features,
                "output": output,
                "paired_with": paired and f"{paired}{number:04x}",
            }
            rows[f"{prefix}{number:04x}"] = common | row
    there = chosen(connection, PREDICTIONS.c.id, list(rows))
    if new := [{"id": name, **row} for name, row in rows.items() if name not in there]:
        connection.execute(sa.insert(PREDICTIONS), new)


def refusals(counts: Mapping[tuple[str, str], tuple[int, datetime]]) -> list[dict[str, Any]]:
    """Return the table's rows for requests that were refused: (kind, place) -> how many, and the last."""
    return [
        {
            "id": uuid4().hex,
            "time": time,
            "kind": kind,
            "place": place[:PLACE],
            "requests": requests,
        }
        for (kind, place), (requests, time) in counts.items()
    ]


def refuse(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of refused requests; those whose ids are there already stay as they are."""
    there = chosen(connection, REFUSALS.c.id, [row["id"] for row in rows])
    if new := [row for row in rows if row["id"] not in there]:
        connection.execute(sa.insert(REFUSALS), new)


def refused(engine: sa.Engine, start: datetime, end: datetime) -> dict[tuple[str, str], int]:
    """Return how many requests were refused from `start` on and before `end`, by kind and place."""
    kind, place, number = REFUSALS.c.kind, REFUSALS.c.place, sa.func.sum(REFUSALS.c.requests)
    wanted = (REFUSALS.c.time >= start) & (REFUSALS.c.time < end)
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(kind, place, number).where(wanted).group_by(kind, place)
        )
        return {(row[0], row[1]): int(row[2]) for row in rows}


def windows(engine: sa.Engine, model: str, count: int) -> list[dict[str, Any]]:
    """Return what `monitor` found in the last windows of a model, oldest first; times are UTC."""
    columns = WINDOWS.c
    query = (
        sa.select(WINDOWS)
        .where(columns.model == model)
        .order_by(columns.end.desc(), columns.made.desc())
    )
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(query.limit(count)).mappings()]
    for row in found:  # SQLite keeps no zone
        row |= {name: row[name].replace(tzinfo=UTC) for name in ("start", "end", "made")}
    return found[::-1]


def chosen(
    connection: sa.Connection, key: sa.Column[Any], ids: Sequence[str], *more: Any
) -> dict[str, Any]:
    """Return the rows of a table that have these ids, as id -> the columns in `more`."""
    found: dict[str, Any] = {}
    for start in range(0, len(ids), CHUNK):
        query = sa.select(key, *more).where(key.in_(ids[start : start + CHUNK]))
        found |= {row[0]: row[1:] for row in connection.execute(query)}
    return found


def refuses(error: Exception) -> bool:
    """Return whether the data is to blame for an error, and not the database or the way to it."""
    if isinstance(error, OperationalError) and isinstance(error.orig, sqlite3.Error):
        return "malformed JSON" in str(error.orig)
    return isinstance(error, DataError | IntegrityError | ValueError | TypeError)


def impossible(error: Exception) -> bool:
    """Return whether a SQLite file is in a folder that is not there, or is something else."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB)


def answers(engine: sa.Engine, prefix: str) -> list[dict[str, Any]]:
    """Return what is stored of one request, in the order of its rows; nothing if it is not there."""
    wanted = PREDICTIONS.c.id.between(f"{prefix}0000", f"{prefix}ffff")
    with engine.connect() as connection:
        query = sa.select(PREDICTIONS).where(wanted).order_by(PREDICTIONS.c.id)
        return [dict(row) for row in connection.execute(query).mappings()]


def record(engine: sa.Engine, pairs: Sequence[tuple[str, Any]]) -> Recorded:
    """Record what came true, as (prediction id, value): all in one transaction.

    A value that differs from the one recorded replaces it. Ids that the log has not are left out.
    """
    now, changed, unknown = datetime.now(UTC), dict[str, Any](), list[int]()
    recorded = repeated = corrected = 0
    ids = list(
        {name for name, _ in pairs if name.isprintable()}
    )  # no database takes all other texts
    with engine.begin() as connection:
        alone(connection)
        known = chosen(connection, PREDICTIONS.c.id, ids)
        there = chosen(connection, OUTCOMES.c.prediction_id, ids, OUTCOMES.c.value)
        values = {name: row[0] for name, row in there.items()}
        for position, (name, value) in enumerate(pairs):
            if name not in known:
                unknown.append(position)
                continue
            if name in values and values[name] == value:
                repeated += 1
                continue
            corrected, recorded = corrected + (name in values), recorded + (name not in values)
            values[name] = changed[name] = value
        rows = [
            {"key": name, "prediction_id": name, "value": v, "time": now}
            for name, v in changed.items()
        ]
        if new := [row for row in rows if row["key"] not in there]:
            connection.execute(
                sa.insert(OUTCOMES), [{k: row[k] for k in row if k != "key"} for row in new]
            )
        if old := [row for row in rows if row["key"] in there]:
            same = OUTCOMES.c.prediction_id == sa.bindparam("key")
            connection.execute(sa.update(OUTCOMES).where(same), old)
    return Recorded(recorded, repeated, corrected, unknown)


def prune(engine: sa.Engine, before: datetime) -> int:
    """Delete the predictions made before then, their outcomes, and the refusals of that time.

    Returns how many predictions.
    """
    pruned = prune_table(engine, PREDICTIONS, before)
    prune_table(engine, REFUSALS, before)
    if engine.dialect.name == "sqlite":
        shrink(engine)
    return pruned


def prune_table(engine: sa.Engine, table: sa.Table, before: datetime) -> int:
    """Delete the rows of a table from before then, with the outcomes that belong to them."""
    pruned, column = 0, table.c
    query = sa.select(column.id).where(column.time < before).order_by(column.time).limit(CHUNK)
    while True:
        with engine.begin() as connection:  # short ones: the server writes to the same tables
            alone(connection)
            ids = connection.scalars(query).all()
            if table is PREDICTIONS:
                connection.execute(sa.delete(OUTCOMES).where(OUTCOMES.c.prediction_id.in_(ids)))
            connection.execute(sa.delete(table).where(column.id.in_(ids)))
        pruned += len(ids)
        if len(ids) < CHUNK:
            return pruned


def shrink(engine: sa.Engine) -> None:
    """Give the free pages of a SQLite file back to the disk.

    Nothing happens to a file that was made without auto_vacuum: its space is used again, not given back.
    """
    pages, raw = -1, engine.raw_connection()
    try:
        connection: Any = raw.driver_connection
        while pages != (pages := connection.execute("PRAGMA freelist_count").fetchone()[0]):
            connection.executescript(
                "PRAGMA incremental_vacuum(2000)"
            )  # little by little: it locks the file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        raw.close()
