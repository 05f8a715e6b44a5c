"""The tables of the prediction log; on PostgreSQL the large ones are partitioned: partitions.py."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

METADATA = sa.MetaData()
PLACE_LENGTH = 128  # characters of a column's name that a rejected request keeps
IDS_PER_STATEMENT = 5000
ADVISORY_LOCK = 7_151_409_386  # any number, the same in every process

PREDICTIONS = sa.Table(
    "predictions",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),  # UTC
    sa.Column("key_name", sa.String(64)),  # of the API key
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("variant", sa.String(16), nullable=False, server_default="champion"),
    sa.Column("paired_with", sa.String(32)),  # of a shadow: the prediction that was answered
    sa.Column("features", sa.JSON, nullable=False),
    sa.Column("output", sa.JSON, nullable=False),  # {"label": ..., "probabilities": {...}}
    sa.Column("latency_ms", sa.Float, nullable=False),
    # All that counting a window takes: PostgreSQL need not read the rows.
    sa.Index("ix_predictions_time", "time", postgresql_include=["id", "variant", "model_version"]),
    postgresql_partition_by="RANGE (id)",
)
OUTCOMES = sa.Table(
    "outcomes",  # ground truth
    METADATA,
    sa.Column("prediction_id", sa.String(32), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),  # a class or a number
    sa.Column("time", sa.DateTime(timezone=True), nullable=False),  # UTC, when it was recorded
    postgresql_partition_by="RANGE (prediction_id)",
)
REFUSALS = sa.Table(
    "refusals",  # rejected requests, added up over some seconds
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("time", sa.DateTime(timezone=True), nullable=False, index=True),  # UTC, of the last
    sa.Column("kind", sa.String(32), nullable=False),  # as the metric `errors` names it
    sa.Column("place", sa.String(PLACE_LENGTH), nullable=False),  # the column that was wrong, or ""
    sa.Column("requests", sa.Integer, nullable=False),
)
WINDOWS = sa.Table(
    "windows",  # what `monitor` found, one row for each model and monitoring window
    METADATA,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("start", sa.DateTime(timezone=True), nullable=False),  # UTC
    sa.Column("end", sa.DateTime(timezone=True), nullable=False),  # UTC, exclusive
    sa.Column("made", sa.DateTime(timezone=True), nullable=False),  # UTC
    sa.Column("summary", sa.JSON, nullable=False),  # as in summary.json
)


def create_missing(engine: sa.Engine) -> None:
    """Create the tables that the database lacks."""
    if METADATA.tables.keys() - set(sa.inspect(engine).get_table_names()):
        with engine.begin() as connection:
            lock_database(connection)
            create_all(connection)


def create_all(connection: sa.Connection) -> None:
    """Create tables; partitioned ones with a partition for the rows of no day's partition."""
    there = sa.inspect(connection).get_table_names()
    METADATA.create_all(connection)
    for name in {PREDICTIONS.name, OUTCOMES.name} - {*there}:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT")


def lock_database(connection: sa.Connection) -> None:
    """Hold the lock of those who change tables or outcomes, to the end of this transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))


def insert(connection: sa.Connection, name: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT into a table in the database's dialect, which knows ON CONFLICT."""
    table = METADATA.tables[name]
    is_sqlite = connection.dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)
