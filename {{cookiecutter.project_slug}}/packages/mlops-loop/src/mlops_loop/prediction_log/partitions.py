"""Partitions: PostgreSQL keeps predictions and outcomes by the day that their ids begin with.

So `id` stays the primary key, a lookup by ids reads their days, and both tables of a day go at
once. A CHECK on the time lets PostgreSQL skip a partition that no window asks for. Rows of no day's
partition are in the DEFAULT one: they are in the log as well, it takes longer to read and prune.
"""

import re
from datetime import UTC, date, datetime
from typing import NamedTuple

import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.prediction_log.ids import DAY, first_id, midnight
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS, create_all, lock_database

DAYS_AHEAD = 7  # for which there are partitions, should nobody be able to make more
COLUMNS = {
    table.name: ", ".join(column.name for column in table.columns)
    for table in (PREDICTIONS, OUTCOMES)
}
KEYS = {PREDICTIONS.name: PREDICTIONS.c.id.name, OUTCOMES.name: OUTCOMES.c.prediction_id.name}
NAME = re.compile(rf"{PREDICTIONS.name}_(?:until_)?(\d{{8}})")
IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('predictions')"
CHILDREN = """
SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass('predictions')
"""
GRANTS = """
SELECT privilege_type, grantee FROM information_schema.table_privileges
WHERE table_name = :table AND table_schema = current_schema AND grantee <> current_user
"""
INDEXES = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass(:table)"


class Partitioned(NamedTuple):
    """What `partition` did."""

    converted: bool
    days: int  # that got a partition
    left: int  # rows of predictions in the DEFAULT partition


def is_partitioned(connection: sa.Connection) -> bool:
    if connection.dialect.name == "sqlite":
        return False
    return bool(connection.scalar(sa.text(IS_PARTITIONED)))


def partitions(connection: sa.Connection) -> dict[str, date]:
    """Return the end of each partition but the DEFAULT one, by what its name ends with."""
    found: dict[str, date] = {}
    for child in connection.scalars(sa.text(CHILDREN)):
        if match := NAME.fullmatch(child.rpartition(".")[2]):
            day = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date()
            suffix = match[0].removeprefix(PREDICTIONS.name)
            found[suffix] = day if "until" in suffix else day + DAY
    return found


def create_days_ahead(engine: sa.Engine) -> int:
    """Create the partitions that lack of today and the days after; return for how many days."""
    if engine.dialect.name == "sqlite":
        return 0
    today = datetime.now(UTC).date()
    days = [today + n * DAY for n in range(DAYS_AHEAD + 1)]

    def missing() -> list[date]:
        if not is_partitioned(connection):
            return []
        known = partitions(connection)
        first = max((end for name, end in known.items() if "until" in name), default=today)
        return [day for day in days if f"_{day:%Y%m%d}" not in known and day >= first]

    with engine.begin() as connection:
        if missing():
            lock_database(connection)
            created = missing()  # another server may have been faster
            for day in created:
                create_day(connection, day)
            return len(created)
    return 0


def create_day(connection: sa.Connection, day: date) -> None:
    """Create a day's partitions, and move there what the DEFAULT ones hold of it."""
    run = connection.exec_driver_sql
    first, end = first_id(day), first_id(day + DAY)
    for table, key in KEYS.items():
        name, default = f"{table}_{day:%Y%m%d}", f"{table}_default"
        inside = f"{key} >= '{first}' AND {key} < '{end}'"
        run(f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")  # ATTACH takes it anyway
        run(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
        move(connection, table, default, name, inside)
        if table == PREDICTIONS.name:
            check_times(connection, name, midnight(day), midnight(day + DAY))
        run(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}')")


def move(connection: sa.Connection, table: str, source: str, target: str, which: str) -> None:
    columns = COLUMNS[table]
    connection.exec_driver_sql(
        f"WITH moved AS (DELETE FROM {source} WHERE {which} RETURNING {columns}) "
        f"INSERT INTO {target} ({columns}) SELECT {columns} FROM moved"
    )


def check_times(
    connection: sa.Connection, name: str, start: datetime | None, end: datetime
) -> None:
    """Add the CHECK by which windows skip a partition.

    An id that tells no time, as version 1.0 made for a repeated request, may be there by chance.
    Then there is none: the partition is read in vain, by its index on the time.
    """
    within = f"time < '{end}'" + (f" AND time >= '{start}'" if start else "")
    if not connection.scalar(sa.text(f"SELECT EXISTS (SELECT FROM {name} WHERE NOT ({within}))")):
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD CHECK ({within})")


def partition(engine: sa.Engine) -> Partitioned:
    """Convert tables that are not partitioned, and give the rows of DEFAULT ones their days."""
    if engine.dialect.name == "sqlite":
        raise Failure("the prediction log is a SQLite file: only PostgreSQL has partitions")
    with engine.begin() as connection:
        lock_database(connection)
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        converted = not is_partitioned(connection)
        if converted:
            convert(connection, datetime.now(UTC).date() + DAY)
    days = create_days_ahead(engine)
    for day in default_days(engine):
        with engine.begin() as connection:
            lock_database(connection)
            create_day(connection, day)
            days += 1
    with engine.connect() as connection:
        left = connection.scalar(sa.text(f"SELECT count(*) FROM {PREDICTIONS.name}_default")) or 0
    return Partitioned(converted, days, left)


def default_days(engine: sa.Engine) -> list[date]:
    """Return the days that have no partition, and rows with ids of that day."""
    with engine.connect() as connection:
        table = f"{PREDICTIONS.name}_default"
        days = connection.scalars(sa.text(f"SELECT DISTINCT time::date FROM {table} ORDER BY 1"))
        ids = sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE id >= :first AND id < :end)")
        known = partitions(connection)
        start = max((end for name, end in known.items() if "until" in name), default=date.min)
        return [
            day
            for day in days.all()
            if day >= start
            and f"_{day:%Y%m%d}" not in known
            and connection.scalar(ids, {"first": first_id(day), "end": first_id(day + DAY)})
        ]


def convert(connection: sa.Connection, end: date) -> None:
    """Make unpartitioned tables the partitions of all ids before `end`; their rows stay in place.

    Ids that tell no time may lie behind: their rows move to the DEFAULT partition.
    """
    run = connection.exec_driver_sql
    suffix = f"_until_{end:%Y%m%d}"
    for table in KEYS:
        old = f"{table}{suffix}"
        run(f"ALTER TABLE {table} RENAME TO {old}")
        for number, index in enumerate(connection.scalars(sa.text(INDEXES), {"table": old}).all()):
            run(f"ALTER INDEX {index} RENAME TO {old}_{number}")
    create_all(connection)
    for table, key in KEYS.items():
        old = f"{table}{suffix}"
        for privilege, grantee in connection.execute(sa.text(GRANTS), {"table": old}).all():
            role = connection.dialect.identifier_preparer.quote(grantee)
            run(f"GRANT {privilege} ON {table} TO {role if grantee != 'PUBLIC' else grantee}")
        move(connection, table, old, f"{table}_default", f"{key} >= '{first_id(end)}'")
        if table == PREDICTIONS.name:
            check_times(connection, old, None, midnight(end))
        bounds = f"FROM (MINVALUE) TO ('{first_id(end)}')"
        run(f"ALTER TABLE {table} ATTACH PARTITION {old} FOR VALUES {bounds}")
