import asyncio
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.prediction_log import connection as connections
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.ground_truth import Recorded, record_ground_truth
from mlops_loop.prediction_log.predictions import (
    Entry,
    insert_predictions,
    read_predictions,
    to_lines,
)
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.prediction_log.writing.database import TURN_FILE
from mlops_loop.prediction_log.writing.spool import Line, LogFull, Spool
from mlops_loop.prediction_log.writing.writer import EntryRejected, Status, Writer
from mlops_loop.release import audit

from . import databases
from .databases import Postgres
from .server import read_log

LIMIT = 10_000_000
movable = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved there")
FEATURES = {"carrier": 'A "quoted" Ä\u0000\n', "distance": 12.5, "late": None}
OUTPUT = {"label": "on time\n"}


def entry(count: int = 1, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "prefix": uuid.uuid4().hex[:28],
        "time": datetime.now(UTC),
        "key_name": "alice",
        "model_version": "1",
        "variant": "champion",
        "paired": None,
        "latency_ms": 1.5,
        "rows": to_lines([OUTPUT] * count, [FEATURES] * count),
    }
    return Entry(**values | changes)


def ids(entries: list[Entry], rows: int = 1) -> list[str]:
    return [f"{entry.prefix}{row:04x}" for entry in entries for row in range(rows)]


def stored(url: str) -> list[str]:
    engine = open_log(url)
    with engine.connect() as connection:
        found = list(connection.scalars(sa.select(PREDICTIONS.c.id)))
    engine.dispose()
    return found


def until(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within a minute")


@contextmanager
def writing(url: str, folder: Path, limit: int = LIMIT) -> Iterator[Writer]:
    writer = Writer(url, folder / "spool", limit)
    writer.start()
    try:
        yield writer
    finally:
        writer.close()


def send(writer: Writer, entries: list[Entry]) -> list[Any]:
    """Write the entries at the same time; return None or the error of each."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(writer.write, entries), return_exceptions=True)

    return asyncio.run(all_at_once())


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with databases.postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path.as_posix()}/predictions.db"
    if databases.GIVEN:
        return databases.GIVEN
    server: Postgres = request.getfixturevalue("server")
    return server.url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database file in a folder of its own, that a test can take away."""
    (tmp_path / "database").mkdir()
    return tmp_path / "database" / "predictions.db"


def test_concurrent_requests_share_transactions(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry(3) for _ in range(200)]
    transactions = []
    with writing(url, tmp_path) as writer:
        write = writer.database.write
        monkeypatch.setattr(
            writer.database, "write", lambda batch: transactions.append(batch) or write(batch)
        )
        assert send(writer, entries) == [None] * 200
        assert len(transactions) < 50
        found = stored(url)
        assert writer.status() == (0, 0, 0, True)
    assert sorted(set(ids(entries, 3)) & set(found)) == sorted(ids(entries, 3))
    assert len(found) == len(set(found))


def test_a_row_is_stored_as_it_was_given(url: str, tmp_path: Path) -> None:
    answered = entry(2)
    shadow = entry(2, variant="shadow", paired=answered.prefix, model_version="2", key_name=None)
    with writing(url, tmp_path) as writer:
        assert send(writer, [answered, shadow]) == [None, None]
    engine = open_log(url)
    rows = read_predictions(engine, answered.prefix)
    assert [row.id for row in rows] == ids([answered], 2)
    assert [(row.features, row.output) for row in rows] == [(FEATURES, OUTPUT)] * 2
    shown = {"key_name": "alice", "model_version": "1", "variant": "champion", "paired_with": None}
    assert {name: getattr(rows[1], name) for name in shown} == shown
    assert rows[0].latency_ms == 1.5
    assert rows[0].time.replace(tzinfo=UTC) == answered.time
    assert [row.paired_with for row in read_predictions(engine, shadow.prefix)] == ids(
        [answered], 2
    )
    since = answered.time - timedelta(seconds=1)
    assert set(ids([answered], 2)) <= {row["id"] for row in read_log(engine, since, "1")}
    assert not set(ids([shadow], 2)) & {row["id"] for row in read_log(engine, since, "2")}
    assert read_predictions(engine, "0" * 28) == []
    engine.dispose()


def test_a_request_that_is_written_again_changes_nothing(url: str, tmp_path: Path) -> None:
    first = entry(2)
    again = entry(3, prefix=first.prefix, model_version="2")
    with writing(url, tmp_path) as writer:
        assert send(writer, [first]) + send(writer, [again]) == [None, None]
    engine = open_log(url)
    assert [row.model_version for row in read_predictions(engine, first.prefix)] == [
        "1",
        "1",
        "2",
    ]
    engine.dispose()


def test_what_the_database_refuses_does_not_stop_its_neighbours(url: str, tmp_path: Path) -> None:
    entries = [entry() for _ in range(9)]
    entries[4] = entry(key_name="\ud800")  # half a character
    with writing(url, tmp_path) as writer:
        answers = send(writer, entries)
        assert isinstance(answers.pop(4), EntryRejected)
        assert answers == [None] * 8
        later = entry()
        assert send(writer, [later]) == [None]
        assert writer.status() == (0, 0, 0, True)
    expected = set(ids([*entries[:4], *entries[5:], later]))
    assert expected <= set(stored(url))
    assert ids([entries[4]])[0] not in stored(url)


def test_a_request_whose_client_has_gone_harms_nobody(url: str, tmp_path: Path) -> None:
    async def some_go(writer: Writer, entries: list[Entry]) -> list[Any]:
        tasks = [asyncio.create_task(writer.write(entry)) for entry in entries]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    entries = [entry() for _ in range(20)]
    with writing(url, tmp_path) as writer:
        answers = asyncio.run(some_go(writer, entries))
        assert answers[1::2] == [None] * 10
        assert send(writer, [entry()]) == [None]
    assert set(ids(entries[1::2])) <= set(stored(url))


@movable
def test_predictions_are_spooled_while_the_folder_is_gone(file: Path, tmp_path: Path) -> None:
    url, away = f"sqlite:///{file.as_posix()}", tmp_path / "away"
    before, during, after = ([entry(2) for _ in range(20)] for _ in range(3))
    with writing(url, tmp_path) as writer:
        assert send(writer, before) == [None] * 20
        file.parent.rename(away)
        assert send(writer, during) == [None] * 20
        status = writer.status()
        assert status.spool_rows == 40
        assert status.spool_bytes > 0
        assert not status.answers
        away.rename(file.parent)
        until(lambda: writer.status() == (0, 0, 0, True))
        assert send(writer, after) == [None] * 20
    assert sorted(stored(url)) == sorted(ids(before + during + after, 2))


def test_predictions_are_spooled_while_another_program_locks_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SQLITE_LOCK_SECONDS", 1)
    url, entries = f"sqlite:///{file.as_posix()}", [entry() for _ in range(20)]
    with writing(url, tmp_path) as writer:
        blocker = sqlite3.connect(file, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        assert send(writer, entries) == [None] * 20
        assert writer.status().spool_rows == 20
        blocker.execute("ROLLBACK")
        until(lambda: writer.status() == (0, 0, 0, True))
    assert sorted(stored(url)) == sorted(ids(entries))


def refused(url: str) -> dict[tuple[str, str], int]:
    engine, now, hour = open_log(url), datetime.now(UTC), timedelta(hours=1)
    found = count_rejected(engine, now - hour, now + hour)
    engine.dispose()
    return found


@movable
def test_refusals_wait_while_the_database_is_away(file: Path, tmp_path: Path) -> None:
    url, away = f"sqlite:///{file.as_posix()}", tmp_path / "away"
    with writing(url, tmp_path) as writer:
        writer.count_rejected("contract", "carrier")
        file.parent.rename(away)
        writer.flush_rejected()  # what was written there, nobody would find
        assert writer.rejected.pending
        assert writer.database.available  # those who write predictions find out themselves
        assert send(writer, [entry()]) == [None]
        assert not writer.database.available
        writer.count_rejected("contract", "carrier")
        writer.count_rejected("size", "")
        writer.flush_rejected()
        away.rename(file.parent)
        until(lambda: writer.status().answers)
        until(lambda: refused(url) == {("contract", "carrier"): 2, ("size", ""): 1})
        writer.count_rejected("contract", "carrier")
    assert refused(url) == {
        ("contract", "carrier"): 3,
        ("size", ""): 1,
    }  # the last one when it was closed


def test_a_refusal_that_cannot_be_counted_stops_no_prediction(url: str, tmp_path: Path) -> None:
    engine = open_log(url)
    before, one = refused(url).get(("contract", "dest"), 0), entry()
    with writing(url, tmp_path) as writer:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE refusals RENAME TO taken_away")
        try:
            writer.count_rejected("contract", "dest")
            writer.flush_rejected()
            assert writer.rejected.pending
            assert send(writer, [one]) == [None]
            assert writer.status() == (0, 0, 0, True)
        finally:
            with engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE taken_away RENAME TO refusals")
    assert refused(url)["contract", "dest"] == before + 1
    assert set(ids([one])) <= set(stored(url))
    engine.dispose()


@movable
def test_a_full_spool_refuses_and_loses_nothing(file: Path, tmp_path: Path) -> None:
    url, entries = f"sqlite:///{file.as_posix()}", [entry() for _ in range(30)]
    with writing(url, tmp_path, limit=2000) as writer:
        file.parent.rename(tmp_path / "away")
        answers = [send(writer, [one])[0] for one in entries]
        assert 0 < writer.status().spool_bytes <= 2000
        assert {type(answer) for answer in answers} == {type(None), LogFull}
        (tmp_path / "away").rename(file.parent)
        until(lambda: writer.status() == (0, 0, 0, True))
    kept = [one for one, answer in zip(entries, answers, strict=True) if answer is None]
    assert set(ids(kept)) <= set(stored(url))


@movable
def test_what_no_database_would_take_is_not_spooled(file: Path, tmp_path: Path) -> None:
    wrong = [entry(model_version="\ud800"), entry(key_name="\ud800")]
    with writing(f"sqlite:///{file.as_posix()}", tmp_path) as writer:
        file.parent.rename(tmp_path / "away")
        answers = send(writer, [entry(), *wrong, entry()])
        assert [type(answer) for answer in answers] == [
            type(None),
            EntryRejected,
            EntryRejected,
            type(None),
        ]
        answers = send(writer, [entry(), *wrong, entry()])
        assert [type(answer) for answer in answers] == [
            type(None),
            EntryRejected,
            EntryRejected,
            type(None),
        ]
        assert writer.status().spool_rows == 4


def test_a_full_queue_refuses(file: Path, tmp_path: Path) -> None:
    writer = Writer(f"sqlite:///{file.as_posix()}", tmp_path / "spool", LIMIT)

    async def many() -> list[Any]:
        tasks = [asyncio.create_task(writer.write(entry())) for _ in range(10_002)]
        await asyncio.sleep(0)
        writer.start()  # not before: nothing takes them
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(many())
    assert [type(answer) for answer in answers] == [type(None)] * 10_000 + [LogFull] * 2
    writer.close()


def spooled(folder: Path, entries: list[Entry], *others: bytes) -> Spool:
    """Leave a spool as a process leaves it that was killed."""
    left = Spool(folder, LIMIT)
    left.append([Line(1, text) for text in (*map(msgspec.json.encode, entries), *others)])
    return left


def is_empty(left: Spool) -> bool:
    return not left.oldest()


def test_leftovers_are_replayed(url: str, tmp_path: Path) -> None:
    entries = [entry(2) for _ in range(500)]
    left = spooled(tmp_path / "spool", entries)
    engine = open_log(url)
    with engine.begin() as connection:
        insert_predictions(connection, entries[:200])  # it was killed while it replayed
    engine.dispose()
    with writing(url, tmp_path) as writer:
        until(lambda: is_empty(left))
        until(lambda: writer.status() == (0, 0, 0, True))
    found = stored(url)
    assert set(ids(entries, 2)) <= set(found)
    assert len(found) == len(set(found))


def test_spooled_lines_that_cannot_be_logged_are_set_aside(url: str, tmp_path: Path) -> None:
    entries, bad = [entry() for _ in range(5)], entry(rows=b"no JSON\n{}\n")
    if url.startswith("sqlite"):  # which reads no JSON when it is written
        bad = entry(latency_ms=None)
    left = spooled(tmp_path / "spool", [*entries[:2], bad, *entries[2:]], b"no entry")
    with writing(url, tmp_path):
        until(lambda: is_empty(left))
    aside = (tmp_path / "spool" / "refused.txt").read_bytes()
    assert b"no entry\n" in aside
    assert bad.prefix.encode() in aside
    assert set(ids(entries)) <= set(stored(url))


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


def child(url: str, folder: Path, requests: int) -> subprocess.Popen[str]:
    command = sys.executable, "-c", CHILD, url, str(folder), str(requests)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str], most: int = 10**9) -> list[str]:
    assert process.stdout
    prefixes = [line.strip() for _, line in zip(range(most), process.stdout, strict=False)]
    return [f"{prefix}{row:04x}" for prefix in prefixes if len(prefix) == 28 for row in range(2)]


@movable
@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_what_a_killed_process_acknowledged_is_in_the_log_once(
    file: Path, tmp_path: Path, away: bool
) -> None:
    url = f"sqlite:///{file.as_posix()}"
    process = child(url, tmp_path / "spool", 10**6)
    told = acknowledged(process, 200)
    if away:
        file.parent.rename(tmp_path / "away")
        told += acknowledged(process, 300)
    process.kill()
    told += acknowledged(process)
    process.wait()
    if away:
        (tmp_path / "away").rename(file.parent)
    left = Spool(tmp_path / "spool", LIMIT)
    assert is_empty(left) != away
    with writing(url, tmp_path):
        until(lambda: is_empty(left))
    found = stored(url)
    assert set(told) <= set(found)
    assert len(found) == len(set(found))


def test_two_processes_write_to_one_database(url: str, tmp_path: Path) -> None:
    processes = [child(url, tmp_path / "spool", 50) for _ in range(2)]
    told = [name for process in processes for name in acknowledged(process)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(told) == len(set(told)) == 2 * 8 * 50 * 2
    assert set(told) <= set(stored(url))


def test_postgresql_may_crash_and_come_back_under_load(server: Postgres, tmp_path: Path) -> None:
    told: list[Entry] = []

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

    seen: list[Status] = []
    with writing(server.url, tmp_path) as writer:
        asyncio.run(crash(writer))
        assert seen[0].spool_rows > 0
        assert not seen[0].answers
        until(lambda: writer.status() == (0, 0, 0, True))
    found = stored(server.url)
    assert set(ids(told, 2)) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no flock")
def test_processes_write_to_sqlite_in_turns(tmp_path: Path) -> None:
    import fcntl

    with (
        writing(f"sqlite:///{tmp_path}/log.db", tmp_path) as writer,
        (tmp_path / "spool" / TURN_FILE).open("ab") as another,
        ThreadPoolExecutor() as threads,
    ):
        fcntl.flock(another, fcntl.LOCK_EX)
        sent = threads.submit(send, writer, [entry()])
        time.sleep(0.3)
        assert not sent.done()
        fcntl.flock(another, fcntl.LOCK_UN)
        assert sent.result() == [None]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no flock")
def test_processes_that_wait_for_a_locked_file_do_not_wait_one_after_the_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "SQLITE_LOCK_SECONDS", 2)
    url = f"sqlite:///{file.as_posix()}"
    with ExitStack() as stack:
        writers = [stack.enter_context(writing(url, tmp_path)) for _ in range(4)]
        blocker = stack.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
        blocker.execute("BEGIN EXCLUSIVE")
        threads = stack.enter_context(ThreadPoolExecutor())
        sent = [threads.submit(send, writer, [entry()]) for writer in writers]
        assert [one.result() for one in sent] == [[None]] * 4
        blocker.execute("ROLLBACK")
    assert caplog.text.count("another process waits for its file") >= 2


def test_a_server_starts_without_its_database(server: Postgres, tmp_path: Path) -> None:
    before, during = entry(), entry()
    server.stop()
    try:
        with writing(server.url, tmp_path) as writer:
            assert send(writer, [before, during]) == [None, None]
            assert writer.status().spool_rows == 2
    finally:
        server.start()
    with writing(server.url, tmp_path) as writer:
        until(lambda: is_empty(writer.spool) and writer.status() == (0, 0, 0, True))
    assert set(ids([before, during])) <= set(stored(server.url))


@pytest.mark.skipif(sys.platform != "linux", reason="it takes /proc to find the processes")
def test_predictions_are_spooled_while_postgresql_hangs(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops_loop.prediction_log.writing.database.HANGING_SECONDS", 2)
    entries = [entry() for _ in range(20)]
    with writing(server.url, tmp_path) as writer:
        assert send(writer, [entry()]) == [None]
        server.freeze()
        try:
            assert send(writer, entries[:10]) == [None] * 10
            assert send(writer, entries[10:]) == [None] * 10
            assert writer.status().spool_rows == 20
        finally:
            server.freeze("SIGCONT")
        until(lambda: writer.status() == (0, 0, 0, True))
    assert set(ids(entries)) <= set(stored(server.url))


def test_a_line_that_fails_for_ever_does_not_hold_up_the_others(file: Path, tmp_path: Path) -> None:
    url, entries = f"sqlite:///{file.as_posix()}", [entry() for _ in range(5)]
    engine = open_log(url)
    with engine.begin() as connection:  # an error that does not look like one of the data
        too_large = "SELECT abs(-9223372036854775807 - length(NEW.model_version))"
        rule = f"WHEN NEW.id = '{ids(entries)[2]}' BEGIN {too_large}; END"
        connection.exec_driver_sql(f"CREATE TRIGGER strange BEFORE INSERT ON predictions {rule}")
    engine.dispose()
    left = spooled(tmp_path / "spool", entries)
    with writing(url, tmp_path):
        until(lambda: is_empty(left))
    assert sorted(stored(url)) == sorted(ids([*entries[:2], *entries[3:]]))
    assert entries[2].prefix.encode() in (tmp_path / "spool" / "refused.txt").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("sqlite:///no/such/folder/predictions.db", "unable to open"),
        ("no url", "parse"),
        ("nonesuch://host/database", "nonesuch"),
        ("mysql://host/database", "must be sqlite or postgresql"),
        ("sqlite:///text.db", "not a database"),
    ],
)
def test_a_wrong_url_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("this is text, and not a database at all" * 100)
    with pytest.raises(Failure, match=words) as caught:
        Writer(wrong, tmp_path / "spool", LIMIT).start()
    assert "\n" not in str(caught.value)
    with pytest.raises(Failure, match=words):
        open_log(wrong)


def test_a_writer_that_closed_refuses(file: Path, tmp_path: Path) -> None:
    with writing(f"sqlite:///{file.as_posix()}", tmp_path) as writer:
        assert send(writer, [entry()]) == [None]
    assert isinstance(send(writer, [entry()])[0], LogFull)


def test_outcomes_are_recorded_repeated_corrected_or_unknown(url: str, tmp_path: Path) -> None:
    known = entry(3)
    with writing(url, tmp_path) as writer:
        send(writer, [known])
    engine = open_log(url)
    first, second, third = ids([known], 3)
    strange = [uuid.uuid4().hex, "", "\0", "\ud800", "x" * 500]
    pairs = [(first, "late"), *((name, "late") for name in strange), (second, 12.5)]
    assert record_ground_truth(engine, pairs) == (2, 0, 0, [1, 2, 3, 4, 5])
    assert record_ground_truth(engine, pairs) == (0, 2, 0, [1, 2, 3, 4, 5])
    again = [(first, "on time"), (second, 12.5), (third, 1), (third, 1), (third, 2)]
    assert record_ground_truth(engine, again) == (1, 2, 2, [])
    assert record_ground_truth(engine, []) == (0, 0, 0, [])
    with engine.connect() as connection:
        mine = OUTCOMES.c.prediction_id.in_((first, second, third))
        query = sa.select(OUTCOMES.c.prediction_id, OUTCOMES.c.value).where(mine)
        assert dict(tuple(row) for row in connection.execute(query)) == {
            first: "on time",
            second: 12.5,
            third: 2,
        }
    engine.dispose()


def test_outcomes_that_come_twice_at_the_same_time_are_recorded_once(
    url: str, tmp_path: Path
) -> None:
    known = entry(3000)
    with writing(url, tmp_path) as writer:
        send(writer, [known])
    engine = open_log(url)
    pairs = [(name, 1.0) for name in ids([known], 3000)]

    async def both() -> list[Recorded]:
        there_and_back = asyncio.to_thread(record_ground_truth, engine, pairs[::-1])
        return list(
            await asyncio.gather(
                asyncio.to_thread(record_ground_truth, engine, pairs), there_and_back
            )
        )

    assert sorted(asyncio.run(both())) == [(0, 3000, 0, []), (3000, 0, 0, [])]
    engine.dispose()


def test_prune_deletes_old_predictions_with_their_outcomes(url: str, tmp_path: Path) -> None:
    line = datetime(2001, 1, 1, tzinfo=UTC)
    old, new = (entry(7000, time=line + timedelta(days=days)) for days in (-1, 1))
    with writing(url, tmp_path) as writer:
        assert send(writer, [old, new]) == [None, None]
    engine = open_log(url)
    record_ground_truth(engine, [(name, 1) for name in ids([old, new], 7000)])
    assert prune(engine, line) == 7000
    assert prune(engine, line) == 0
    assert read_predictions(engine, old.prefix) == []
    assert len(read_predictions(engine, new.prefix)) == 7000
    with engine.connect() as connection:
        there = set(connection.scalars(sa.select(OUTCOMES.c.prediction_id)))
    assert not there & set(ids([old], 7000))
    assert there >= set(ids([new], 7000))
    assert prune(engine, line + timedelta(days=2)) == 7000  # leave no years-old rows behind
    engine.dispose()


def test_prune_makes_a_file_smaller(file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{file.as_posix()}"
    audit.append(
        audit.open_audit(url), "model", "refused", audit.Facts()
    )  # the audit log is often first
    with writing(url, tmp_path) as writer:
        send(writer, [entry(2000) for _ in range(10)])
    before = file.stat().st_size
    assert prune(open_log(url), datetime.now(UTC)) == 20_000
    assert file.stat().st_size < before / 4
    assert audit.verify(audit.open_audit(url), "model", {}) == []
