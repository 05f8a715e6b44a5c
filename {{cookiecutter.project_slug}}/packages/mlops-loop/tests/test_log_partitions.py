"""The log's partitions on PostgreSQL: by day, converted, pruned, and read no more than needed."""

import asyncio
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from mlops_loop.base.errors import Failure
from mlops_loop.cli.app import APP
from mlops_loop.monitoring.monitoring_window import between, scan
from mlops_loop.prediction_log import retention
from mlops_loop.prediction_log.connection import connect, open_log
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.prediction_log.ids import DAY, derived_prefixes, first_id, midnight, new_prefix
from mlops_loop.prediction_log.partitions import create_day, partition
from mlops_loop.prediction_log.predictions import (
    Entry,
    insert_predictions,
    read_predictions,
    to_lines,
)
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import METADATA, PREDICTIONS, create_missing
from mlops_loop.prediction_log.writing.writer import Writer
from mlops_loop.release.trace import logged

from . import databases
from .databases import Postgres

NAMES = ("predictions", "outcomes")
CHILDREN = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{}'::regclass"


def today() -> datetime:
    """Return the day that it is when a test asks: the suite may cross midnight."""
    return midnight(datetime.now(UTC).date())


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with databases.postgres() as server:  # no machine of it crashes
        run(connect(server.url), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def url(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty database."""
    name = f"log_{uuid.uuid4().hex[:8]}"
    run(connect(server.url), f"CREATE DATABASE {name}", f"GRANT ALL ON DATABASE {name} TO PUBLIC")
    made = server.url.replace("/postgres", f"/{name}")
    monkeypatch.setenv("PREDICTION_LOG_URL", made)
    return made


@pytest.fixture
def log(url: str) -> sa.Engine:
    """Return a log with partitions of the last ten days."""
    engine = open_log(url)
    with engine.begin() as connection:
        for days in range(10):
            create_day(connection, (today() - days * DAY).date())
    return engine


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.connect() as connection:
        free = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            free.exec_driver_sql(statement)


def entry(time: datetime, count: int = 1, prefix: str = "") -> Entry:
    lines = to_lines([{"label": "late"}] * count, [{"distance": 1.5}] * count)
    return Entry(prefix or new_prefix(time), time, None, "1", "champion", None, 1.0, lines)


def insert(engine: sa.Engine, *entries: Entry) -> list[str]:
    """Insert entries; return the ids of their rows."""
    with engine.begin() as connection:
        insert_predictions(connection, entries)
    return [f"{one.prefix}{row:04x}" for one in entries for row in range(one.row_count)]


def rows(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)


def children(engine: sa.Engine, table: str) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(sa.text(CHILDREN.format(table))))


def create_version_1(engine: sa.Engine) -> None:
    old = sa.MetaData()
    for table in METADATA.tables.values():
        copy = table.to_metadata(old)
        copy.dialect_options["postgresql"]["partition_by"] = None
        for index in copy.indexes:
            index.dialect_options["postgresql"]["include"] = None
    old.create_all(engine)


def relations(plan: Any) -> set[str]:
    """Return the tables that a plan reads, of those that it does not skip when it runs."""
    found = (
        {plan["Relation Name"]} if plan.get("Actual Loops") and "Relation Name" in plan else set()
    )
    return found.union(*(relations(part) for part in plan.get("Plans", [])))


class Explained:
    """The tables that each statement of an engine read, as EXPLAIN (ANALYZE) tells."""

    def __init__(self, engine: sa.Engine) -> None:
        self.read: list[set[str]] = []
        sa.event.listen(engine, "before_cursor_execute", self.explain)

    def explain(
        self, connection: sa.Connection, _: Any, statement: str, values: Any, *__: Any
    ) -> None:
        if statement.startswith("SELECT") and "pg_" not in statement:
            with closing(connection.connection.cursor()) as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
                self.read.append(relations(cursor.fetchone()[0][0]["Plan"]))


def day_of(days: int, *tables: str) -> set[str]:
    return {f"{table}_{today() - days * DAY:%Y%m%d}" for table in tables or NAMES}


def test_a_window_and_ids_read_their_days_only(log: sa.Engine) -> None:
    ids = insert(log, *(entry(today() - days * DAY + DAY / 2, 40) for days in range(10)))
    record_ground_truth(log, [(name, "late") for name in ids[::2]])
    run(log, "ANALYZE")
    explained = Explained(log)
    with log.connect() as connection:
        window = between(today() - 4 * DAY, today() - 2 * DAY)
        counts, some, labelled = scan(connection, window, "1", 50)
    assert counts.loc["1"].to_dict() == {"rows": 80, "requests": 2, "known": 40}
    assert (len(set(some)), len(set(labelled))) == (50, 40)
    defaults = {f"{name}_default" for name in NAMES}
    assert len(explained.read) == 3
    for read in explained.read:
        assert read <= day_of(4) | day_of(3) | defaults
    assert set.union(*explained.read) >= day_of(4) | day_of(3)
    explained.read.clear()
    assert len(read_predictions(log, ids[0][:28])) == 40
    record_ground_truth(log, [(ids[40], "on time")])
    assert explained.read[:2] == [day_of(0, "predictions")] * 2
    assert explained.read[2] <= day_of(1)


def test_trace_reads_one_day(log: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = insert(log, entry(today() - 3 * DAY))
    explained = Explained(log)
    monkeypatch.setattr("mlops_loop.release.trace.open_log", lambda url: log)
    assert logged(name).id == name
    assert explained.read == [day_of(3, "predictions")]


def test_the_primary_key_is_the_id_and_a_replay_inserts_nothing(log: sa.Engine) -> None:
    assert sa.inspect(log).get_pk_constraint("predictions")["constrained_columns"] == ["id"]
    known = entry(today(), 3)
    strange = entry(today(), 3, uuid.uuid4().hex[:28])  # of no day, as of version 1.0
    for _ in range(2):
        insert(log, known, strange)
    assert rows(log, "predictions") == 6
    assert len(read_predictions(log, strange.prefix)) == 3


def test_ids_tell_their_day() -> None:
    last = datetime(2026, 11, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    for moment in (last, last - DAY, last + timedelta(microseconds=1)):
        start, end = first_id(moment.date()), first_id((moment + DAY).date())
        for prefix in (new_prefix(moment), derived_prefixes(b"key", moment)[0]):
            assert len(prefix) == 28
            assert start <= f"{prefix}0000" < end
    today, tomorrow = (derived_prefixes(b"key", moment) for moment in (last, last + DAY))
    assert today[0] in tomorrow
    assert derived_prefixes(b"other", last)[0] not in tomorrow


def test_servers_that_start_at_once_create_everything_once(url: str, tmp_path: Path) -> None:
    entries = [entry(datetime.now(UTC)) for _ in range(8)]

    def serve(number: int) -> None:
        writer = Writer(url, tmp_path / str(number), 1_000_000)
        writer.start()
        assert asyncio.run(write(writer, entries[number])) is None
        assert writer.status()[1:] == (0, 0, True)
        writer.close()

    async def write(writer: Writer, one: Entry) -> None:
        await writer.write(one)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(serve, range(8)))
    engine = open_log(url)
    days = {f"_{today() + days * DAY:%Y%m%d}" for days in range(8)}
    for table in NAMES:
        assert children(engine, table) == {f"{table}{end}" for end in {"_default", *days}}
    assert rows(engine, f"predictions_{today():%Y%m%d}") == 8


def test_tables_of_version_1_work_and_become_a_partition(url: str, tmp_path: Path) -> None:
    engine = connect(url)
    create_version_1(engine)
    run(engine, "CREATE ROLE reader", "GRANT SELECT ON predictions TO reader")
    old = [entry(today() - days * DAY, 5) for days in range(3)]
    old.append(entry(today() - DAY, 5, "f" * 28))  # of a repeated request
    ids = insert(engine, *old)
    record_ground_truth(engine, [(name, "late") for name in ids])
    writer = Writer(url, tmp_path / "spool", 1_000_000)
    writer.start()  # no partitions: no harm
    told: list[Entry] = []

    async def client(stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            told.append(entry(datetime.now(UTC), 2))
            await writer.write(told[-1])

    async def convert() -> Any:
        stopped = asyncio.Event()
        clients = [asyncio.create_task(client(stopped)) for _ in range(4)]
        done = await asyncio.gather(*[asyncio.to_thread(partition, engine) for _ in range(3)])
        stopped.set()
        await asyncio.gather(*clients)
        return done

    done = asyncio.run(convert())
    writer.close()
    Writer(url, tmp_path / "spool", 1_000_000).replay()  # what was spooled meanwhile
    assert sorted(one.converted for one in done) == [False, False, True]
    assert {one.left for one in done} == {5}
    assert partition(engine) == (False, 0, 5)
    assert rows(engine, "predictions") == 20 + 2 * len(told)
    assert rows(engine, "outcomes") == 20
    assert record_ground_truth(engine, [(name, "late") for name in ids]).repeated == 20
    until = f"_until_{today() + DAY:%Y%m%d}"
    assert rows(engine, f"predictions{until}") == 15 + 2 * len(told)
    assert f"predictions_{today() + 2 * DAY:%Y%m%d}" in children(engine, "predictions")
    with engine.connect() as connection:
        assert connection.scalar(
            sa.text("SELECT has_table_privilege('reader', 'predictions', 'SELECT')")
        )
    assert prune(engine, today() - DAY) == 5
    assert prune(engine, today() + DAY) == 15 + 2 * len(told)
    assert until not in {
        name.removeprefix("predictions") for name in children(engine, "predictions")
    }
    assert rows(engine, "outcomes") == 0


def test_prune_drops_days_and_deletes_the_rest(log: sa.Engine) -> None:
    ids = insert(log, *(entry(today() - days * DAY + DAY / 2, 10) for days in range(5)))
    strange = insert(log, entry(today() - 4 * DAY, 2, uuid.uuid4().hex[:28]))
    record_ground_truth(log, [(name, "late") for name in ids + strange])
    assert prune(log, today() - 2 * DAY + timedelta(hours=13)) == 10 + 10 + 10 + 2
    for table in NAMES:
        assert rows(log, table) == 20
        known = children(log, table)
        assert not known & {f"{table}_{today() - days * DAY:%Y%m%d}" for days in (3, 4, 9)}
        assert f"{table}_{today() - 2 * DAY:%Y%m%d}" in known
    assert prune(log, today() - 2 * DAY + timedelta(hours=13)) == 0


def test_a_day_that_is_read_is_dropped_later(
    log: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(log, entry(today() - 9 * DAY), entry(today()))
    monkeypatch.setattr(retention, "ATTEMPTS", 2)
    with log.connect() as connection:
        connection.execute(sa.select(PREDICTIONS)).all()  # a transaction that stays open
        with pytest.raises(Failure, match=r"predictions_\d+ cannot be dropped") as caught:
            prune(log, today() - 8 * DAY)
        assert "\n" not in str(caught.value)
    assert prune(log, today() - 8 * DAY) == 1


def test_rows_in_the_way_of_a_day_are_moved(url: str) -> None:
    engine, day = open_log(url), today() - 40 * DAY
    ids = insert(engine, entry(day, 3), entry(day + DAY, 2), entry(day, 1, uuid.uuid4().hex[:28]))
    by_chance = entry(today() - 90 * DAY, 1, first_id((day + DAY).date()) + "0" * 16)
    ids += insert(engine, by_chance)
    record_ground_truth(engine, [(name, "late") for name in ids])
    assert rows(engine, "predictions_default") == 7
    assert partition(engine).left == 1
    for table in NAMES:
        assert rows(engine, f"{table}_{day:%Y%m%d}") == 3
        assert rows(engine, f"{table}_{day + DAY:%Y%m%d}") == 3
        assert rows(engine, table) == 7
    with engine.connect() as connection:  # and what has a strange id is found nevertheless
        counts, _, _ = scan(connection, between(today() - 91 * DAY, today() - 89 * DAY), "1", 9)
    assert counts.loc["1", "rows"] == 1


def test_without_the_right_to_create_tables_nothing_is_lost(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, role = open_log(url), f"app_{uuid.uuid4().hex[:8]}"
    rights = "SELECT, INSERT, UPDATE, DELETE"
    run(
        owner,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT {rights} ON {', '.join(METADATA.tables)} TO {role}",
    )
    as_role = url.replace("tester@", f"{role}@")
    monkeypatch.setenv("PREDICTION_LOG_URL", as_role)
    told = [entry(datetime.now(UTC), 2) for _ in range(5)]

    async def send(writer: Writer) -> None:
        await asyncio.gather(*map(writer.write, told))

    writer = Writer(as_role, tmp_path / "spool", 1_000_000)
    writer.start()
    asyncio.run(send(writer))
    assert writer.status()[1:] == (0, 0, True)
    writer.close()
    warnings = [r.message for r in caplog.records if "no partitions" in r.message]
    assert len(warnings) == 1
    assert "permission denied" in warnings[0]
    assert rows(owner, "predictions_default") == 10
    result = CliRunner().invoke(APP, ["log", "partition"])
    assert isinstance(result.exception, Failure)
    assert "permission denied" in str(result.exception)
    assert partition(owner) == (False, 8, 0)
    assert rows(owner, f"predictions_{today():%Y%m%d}") == 10
    with owner.begin() as connection:
        create_day(connection, (today() - DAY).date())
    insert(owner, entry(today() - DAY))
    result = CliRunner().invoke(APP, ["log", "prune", "--older-than", "0"])
    assert isinstance(result.exception, Failure)
    assert "permission denied for table predictions_" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert rows(owner, "predictions") == 11
    monkeypatch.setenv("PREDICTION_LOG_URL", url)
    result = CliRunner().invoke(APP, ["log", "partition"])
    assert "0 days got a partition; 0 predictions" in result.output


def test_a_database_in_which_nobody_may_create_tables_is_spooled_for(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    role, told = f"app_{uuid.uuid4().hex[:8]}", entry(datetime.now(UTC))
    run(connect(url), f"CREATE ROLE {role} LOGIN")
    as_role = url.replace("tester@", f"{role}@")
    with pytest.raises(Failure, match="permission denied"):
        open_log(as_role)
    writer = Writer(as_role, tmp_path / "spool", 1_000_000)
    writer.start()
    asyncio.run(writer.write(told))
    assert writer.status().spool_rows == 1
    writer.close()
    create_missing(connect(url))
    Writer(url, tmp_path / "spool", 1_000_000).replay()
    assert len(read_predictions(connect(url), told.prefix)) == 1


def test_a_sqlite_file_has_no_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTION_LOG_URL", f"sqlite:///{tmp_path}/log.db")
    result = CliRunner().invoke(APP, ["log", "partition"])
    assert isinstance(result.exception, Failure)
    assert "SQLite" in str(result.exception)
