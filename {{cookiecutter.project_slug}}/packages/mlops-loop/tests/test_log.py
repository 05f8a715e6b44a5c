import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.prediction_log.predictions import (
    Entry,
    read_predictions,
    to_lines,
)
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.prediction_log.writing import database
from mlops_loop.prediction_log.writing.spool import NotLogged, Spool
from mlops_loop.prediction_log.writing.writer import Status, Writer
from mlops_loop.release import audit

from . import databases
from .databases import Postgres
from .server import read_log

LIMIT = 10_000_000
FINE = (0, 0, 0, True)  # the status of a writer with nothing to do
not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="no flock, no moved open file")
FEATURES = {"carrier": 'A "quoted" Ä\u0000\n', "distance": 12.5, "late": None}
OUTPUT = {"label": "on time\n"}


def entry(count: int = 1, **changes: Any) -> Entry:
    rows = to_lines([OUTPUT] * count, [FEATURES] * count)
    prefix = uuid.uuid4().hex[:28]
    known = Entry(prefix, datetime.now(UTC), "alice", "1", "champion", None, 1.5, rows)
    return msgspec.structs.replace(known, **changes)


def ids(entries: list[Entry], rows: int = 1) -> list[str]:
    return [f"{entry.prefix}{row:04x}" for entry in entries for row in range(rows)]


def until(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within a minute")


def send(writer: Writer, entries: list[Entry]) -> list[Any]:
    """Write the entries at the same time; return None or the error of each."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(writer.write, entries), return_exceptions=True)

    return asyncio.run(all_at_once())


class Log:
    """A database, and a spool beside it. A SQLite file is in a folder that can be taken away."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.path = folder / "database" / "predictions.db"
        self.path.parent.mkdir()
        self.url = url or f"sqlite:///{self.path.as_posix()}"
        self.folder = folder / "spool"

    @cached_property
    def engine(self) -> sa.Engine:
        return open_log(self.url)

    @contextmanager
    def writing(self, limit: int = LIMIT) -> Iterator[Writer]:
        writer = Writer(self.url, self.folder, limit)
        writer.start()
        try:
            yield writer
        finally:
            writer.close()

    def ids(self) -> list[str]:
        with self.engine.connect() as connection:
            found = list(connection.scalars(sa.select(PREDICTIONS.c.id)))
        assert len(found) == len(set(found))
        return found

    def holds(self, entries: list[Entry], rows: int = 1) -> bool:
        return set(ids(entries, rows)) <= set(self.ids())

    def rejected(self) -> dict[tuple[str, str], int]:
        now, hour = datetime.now(UTC), timedelta(hours=1)
        return count_rejected(self.engine, now - hour, now + hour)

    def replay(self) -> None:
        """Run a writer until the spool is empty."""
        with self.writing() as writer:
            until(lambda: not writer.spool.oldest() and writer.status() == FINE)

    def take_away(self) -> None:
        self.path.parent.rename(self.folder.parent / "away")

    def bring_back(self) -> None:
        (self.folder.parent / "away").rename(self.path.parent)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with databases.postgres() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    if request.param == "sqlite":
        return Log(tmp_path)
    return Log(tmp_path, databases.GIVEN or request.getfixturevalue("server").url)


def test_concurrent_requests_share_transactions(log, monkeypatch) -> None:
    entries = [entry(3) for _ in range(200)]
    transactions = []
    insert = database.insert_predictions
    monkeypatch.setattr(
        database, "insert_predictions", lambda *args: transactions.append(1) or insert(*args)
    )
    with log.writing() as writer:
        assert send(writer, entries) == [None] * 200
        assert len(transactions) < 50
        assert log.holds(entries, 3)
        assert writer.status() == FINE
    assert isinstance(send(writer, [entry()])[0], NotLogged)  # it was closed


def test_a_row_is_stored_once_and_as_it_was_given(log) -> None:
    answered = entry(2)
    shadow = entry(2, variant="shadow", paired=answered.prefix, model_version="2", key_name=None)
    again = entry(3, prefix=answered.prefix, model_version="3")
    with log.writing() as writer:
        assert send(writer, [answered, shadow]) == [None, None]
        assert send(writer, [again]) == [None]
    rows = read_predictions(log.engine, answered.prefix)
    assert [row.id for row in rows] == ids([answered], 3)
    assert [(row.features, row.output) for row in rows] == [(FEATURES, OUTPUT)] * 3
    assert [row.model_version for row in rows] == ["1", "1", "3"]
    first = rows[0]
    assert (first.key_name, first.variant, first.paired_with) == ("alice", "champion", None)
    assert (first.latency_ms, first.time.replace(tzinfo=UTC)) == (1.5, answered.time)
    paired = [row.paired_with for row in read_predictions(log.engine, shadow.prefix)]
    assert paired == ids([answered], 2)
    since = answered.time - timedelta(seconds=1)
    assert set(ids([answered], 2)) <= {row["id"] for row in read_log(log.engine, since, "1")}
    assert not set(ids([shadow], 2)) & {row["id"] for row in read_log(log.engine, since, "2")}
    assert read_predictions(log.engine, "0" * 28) == []


def test_what_the_database_rejects_is_set_aside_and_stops_no_neighbour(log) -> None:
    entries, bad = [entry() for _ in range(9)], entry(model_version="x" * 65)
    if log.engine.dialect.name == "sqlite":  # it has no limits
        too_large = "SELECT abs(-9223372036854775807 - (length(NEW.model_version) > 64))"
        with log.engine.begin() as connection:
            trigger = f"CREATE TRIGGER t BEFORE INSERT ON predictions BEGIN {too_large}; END"
            connection.exec_driver_sql(trigger)
    with log.writing() as writer:
        assert send(writer, [*entries[:4], bad, *entries[4:]]) == [None] * 10
        until(lambda: writer.status() == FINE)
        assert send(writer, [entry()]) == [None]
        assert writer.status() == FINE
    assert log.holds(entries)
    assert not log.holds([bad])
    assert bad.prefix in (log.folder / "refused.txt").read_text()


def test_a_request_whose_client_has_gone_harms_nobody(log) -> None:
    async def some_go(writer: Writer, entries: list[Entry]) -> list[Any]:
        tasks = [asyncio.create_task(writer.write(entry)) for entry in entries]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    entries = [entry() for _ in range(20)]
    with log.writing() as writer:
        assert asyncio.run(some_go(writer, entries))[1::2] == [None] * 10
        assert send(writer, [entry()]) == [None]
    assert log.holds(entries[1::2])


@not_on_windows
def test_predictions_are_spooled_while_the_folder_is_gone(file) -> None:
    before, during, after = ([entry(2) for _ in range(20)] for _ in range(3))
    with file.writing() as writer:
        assert send(writer, before) == [None] * 20
        file.take_away()
        assert send(writer, during) == [None] * 20
        _, rows, size, answers = writer.status()
        assert (rows, size > 0, answers) == (40, True, False)
        file.bring_back()
        until(lambda: writer.status() == FINE)
        assert send(writer, after) == [None] * 20
    assert sorted(file.ids()) == sorted(ids(before + during + after, 2))


@not_on_windows
def test_counts_of_rejected_requests_wait_while_the_database_is_away(file) -> None:
    with file.writing() as writer:
        file.take_away()
        writer.count_rejected("contract", "carrier")
        writer.flush_rejected()  # what was written there, nobody would find
        assert writer.database.available  # those who write predictions find out themselves
        assert send(writer, [entry()]) == [None]
        assert not writer.database.available
        writer.count_rejected("contract", "carrier")
        writer.count_rejected("size", "")
        file.bring_back()
        until(lambda: file.rejected() == {("contract", "carrier"): 2, ("size", ""): 1})
        writer.count_rejected("contract", "carrier")  # written when it is closed
    assert file.rejected() == {("contract", "carrier"): 3, ("size", ""): 1}


@not_on_windows
def test_a_full_spool_refuses_and_loses_nothing(file) -> None:
    entries = [entry() for _ in range(30)]
    with file.writing(limit=2000) as writer:
        file.take_away()
        answers = [send(writer, [one])[0] for one in entries]
        assert writer.full
        assert 0 < writer.status().spool_bytes <= 2000
        assert {type(answer) for answer in answers} == {type(None), NotLogged}
        file.bring_back()
        until(lambda: writer.status() == FINE)
        assert not writer.full
    assert file.holds([one for one, why in zip(entries, answers, strict=True) if why is None])


def test_a_full_queue_refuses(file) -> None:
    writer = Writer(file.url, file.folder, LIMIT)

    async def many() -> list[Any]:
        tasks = [asyncio.create_task(writer.write(entry())) for _ in range(8200)]
        await asyncio.sleep(0)
        writer.start()  # not before: nothing takes them
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(many())
    assert answers[:7000] == [None] * 7000
    assert isinstance(answers[-1], NotLogged)
    writer.close()


def test_a_spool_of_an_older_version_is_not_forgotten(file) -> None:
    file.folder.mkdir()
    (file.folder / "1.jsonl").write_text("{}\n")
    with pytest.raises(Failure, match="let its server write them"):
        Writer(file.url, file.folder, LIMIT)


CHILD = """
import asyncio, sys, uuid
from datetime import UTC, datetime
from pathlib import Path
from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.prediction_log.writing.writer import Writer

url, folder, requests = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
writer = Writer(url, folder, 10_000_000)
writer.start()

async def client():
    for _ in range(requests):
        prefix = uuid.uuid4().hex[:28]
        rows = b'{"b": 2}\\n{"a": 1}\\n' * 2
        await writer.write(Entry(prefix, datetime.now(UTC), None, "1", "champion", None, 1.0, rows))
        print(prefix, flush=True)

async def main():
    await asyncio.gather(*(client() for _ in range(8)))

asyncio.run(main())
writer.close()
"""


def child(log: Log, requests: int) -> subprocess.Popen[str]:
    command = sys.executable, "-c", CHILD, log.url, str(log.folder), str(requests)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str], most: int = 10**9) -> list[str]:
    assert process.stdout
    prefixes = [line.strip() for _, line in zip(range(most), process.stdout, strict=False)]
    return [f"{prefix}{row:04x}" for prefix in prefixes if len(prefix) == 28 for row in range(2)]


@not_on_windows
@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_what_a_killed_process_acknowledged_is_in_the_log_once(file, away) -> None:
    process = child(file, 10**6)
    told = acknowledged(process, 200)
    if away:
        file.take_away()
        told += acknowledged(process, 300)
    process.kill()
    told += acknowledged(process)
    process.wait()
    if away:
        file.bring_back()
        assert Spool(file.folder, LIMIT).oldest()
    file.replay()
    assert set(told) <= set(file.ids())


def test_two_processes_write_to_one_database(log) -> None:
    processes = [child(log, 50) for _ in range(2)]
    told = [name for process in processes for name in acknowledged(process)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(told) == len(set(told)) == 2 * 8 * 50 * 2
    assert set(told) <= set(log.ids())


@not_on_windows
def test_processes_write_to_sqlite_in_turns(file) -> None:
    import fcntl

    with file.writing() as writer, ThreadPoolExecutor() as threads:
        with (file.folder / database.TURN_FILE).open("ab") as another:
            fcntl.flock(another, fcntl.LOCK_EX)
            sent = threads.submit(send, writer, [entry()])
            time.sleep(0.3)
            assert not sent.done()
        assert sent.result() == [None]


def test_postgresql_may_crash_and_come_back_under_load(server, tmp_path) -> None:
    told: list[Entry] = []
    seen: list[Status] = []

    async def client(writer: Writer, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            one = entry(2)
            await writer.write(one)
            told.append(one)
            await asyncio.sleep(0.005)  # the database may take its time to start

    async def crash(writer: Writer) -> None:
        stopped = asyncio.Event()
        clients = [asyncio.create_task(client(writer, stopped)) for _ in range(16)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.stop, "SIGQUIT")
        await asyncio.sleep(0.5)
        seen.append(writer.status())
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(until, lambda: writer.status().answers)
        await asyncio.sleep(1.5)
        stopped.set()
        await asyncio.gather(*clients)

    log = Log(tmp_path, server.url)
    with log.writing() as writer:
        asyncio.run(crash(writer))
        assert (seen[0].spool_rows > 0, seen[0].answers) == (True, False)
        until(lambda: writer.status() == FINE)
    assert log.holds(told, 2)


def test_a_server_starts_without_its_database(server, tmp_path) -> None:
    entries, log = [entry(), entry()], Log(tmp_path, server.url)
    server.stop()
    try:
        with log.writing() as writer:
            assert send(writer, entries) == [None, None]
            assert writer.status().spool_rows == 2
    finally:
        server.start()
    log.replay()
    assert log.holds(entries)


@pytest.mark.skipif(sys.platform != "linux", reason="it takes /proc to find the processes")
def test_predictions_are_spooled_while_postgresql_hangs(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(database, "HANGING_SECONDS", 2)
    entries, log = [entry() for _ in range(20)], Log(tmp_path, server.url)
    with log.writing() as writer:
        assert send(writer, [entry()]) == [None]
        server.freeze()
        try:
            assert send(writer, entries[:10]) == [None] * 10
            assert send(writer, entries[10:]) == [None] * 10
            assert writer.status().spool_rows == 20
        finally:
            server.freeze("SIGCONT")
        until(lambda: writer.status() == FINE)
    assert log.holds(entries)


WRONG_URLS = {
    "sqlite:///no/such/folder/predictions.db": "unable to open",
    "no url": "parse",
    "nonesuch://host/database": "nonesuch",
    "mysql://host/database": "must be sqlite or postgresql",
    "sqlite:///text.db": "not a database",
}


@pytest.mark.parametrize(("wrong", "words"), WRONG_URLS.items())
def test_a_wrong_url_is_said_in_one_line(tmp_path, monkeypatch, wrong, words) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("this is text, and not a database at all" * 100)
    with pytest.raises(Failure, match=words) as caught:
        Writer(wrong, tmp_path / "spool", LIMIT).start()
    assert "\n" not in str(caught.value)
    with pytest.raises(Failure, match=words):
        open_log(wrong)


def test_outcomes_are_recorded_repeated_corrected_or_unknown(log) -> None:
    known = entry(3)
    with log.writing() as writer:
        send(writer, [known])
    first, second, third = ids([known], 3)
    strange = [uuid.uuid4().hex, "", "\0", "\ud800", "x" * 500]
    pairs = [(first, "late"), *((name, "late") for name in strange), (second, 12.5)]
    again = [(first, "on time"), (second, 12.5), (third, 1), (third, 1), (third, 2)]
    assert record_ground_truth(log.engine, pairs) == (2, 0, 0, [1, 2, 3, 4, 5])
    assert record_ground_truth(log.engine, pairs) == (0, 2, 0, [1, 2, 3, 4, 5])
    assert record_ground_truth(log.engine, again) == (1, 2, 2, [])
    assert record_ground_truth(log.engine, []) == (0, 0, 0, [])
    mine = OUTCOMES.c.prediction_id.in_((first, second, third))
    query = sa.select(OUTCOMES.c.prediction_id, OUTCOMES.c.value).where(mine)
    with log.engine.connect() as connection:
        found = dict(tuple(row) for row in connection.execute(query))
    assert found == {first: "on time", second: 12.5, third: 2}


def test_outcomes_that_come_twice_at_the_same_time_are_recorded_once(log) -> None:
    known = entry(3000)
    with log.writing() as writer:
        send(writer, [known])
    pairs = [(name, 1.0) for name in ids([known], 3000)]
    with ThreadPoolExecutor() as threads:
        both = threads.map(lambda some: record_ground_truth(log.engine, some), (pairs, pairs[::-1]))
        assert sorted(both) == [(0, 3000, 0, []), (3000, 0, 0, [])]


def test_prune_deletes_old_predictions_with_their_outcomes(log) -> None:
    line = datetime(2001, 1, 1, tzinfo=UTC)
    old, new = (entry(7000, time=line + timedelta(days=days)) for days in (-1, 1))
    with log.writing() as writer:
        assert send(writer, [old, new]) == [None, None]
    record_ground_truth(log.engine, [(name, 1) for name in ids([old, new], 7000)])
    assert prune(log.engine, line) == 7000
    assert prune(log.engine, line) == 0
    assert read_predictions(log.engine, old.prefix) == []
    assert len(read_predictions(log.engine, new.prefix)) == 7000
    with log.engine.connect() as connection:
        there = set(connection.scalars(sa.select(OUTCOMES.c.prediction_id)))
    assert not there & set(ids([old], 7000))
    assert there >= set(ids([new], 7000))
    assert prune(log.engine, line + timedelta(days=2)) == 7000  # leave no years-old rows behind


def test_prune_makes_a_file_smaller(file) -> None:
    # The audit log is often first.
    log = audit.AuditLog(Settings(prediction_log_url=file.url))
    log.append("refused", audit.Facts())
    with file.writing() as writer:
        send(writer, [entry(2000) for _ in range(10)])
    before = file.path.stat().st_size
    assert prune(file.engine, datetime.now(UTC)) == 20_000
    assert file.path.stat().st_size < before / 4
    assert log.verify({}) == []
