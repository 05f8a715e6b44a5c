"""Hive-partitioned Parquet: ingested and scored, at once and bit by bit, on a disk and at a URL."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import IngestParams
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import ingest
from mlops_loop.data.source import cached, partitions

from .conftest import edit

DAYS = 6
ROWS = 40  # in a partition
CONTRACT = """
name: trips
task: regression
target: minutes
timestamp: at
columns:
  at: {type: timestamp, role: timestamp}
  minutes: {type: number, role: target}
  km: {type: number}
  zone: {type: category, categories: [a/b, north]}
  day: {type: timestamp, role: ignored}
"""


def day(number: int, zone: str = "north", rows: int = ROWS) -> pd.DataFrame:
    first = pd.Timestamp("2026-03-01") + pd.Timedelta(days=number)
    at = pd.date_range(first, periods=rows, freq="min")
    km = [float(place + number) for place in range(rows)]
    return pd.DataFrame({"at": at, "km": km, "minutes": [2 * each for each in km]})


def partition(number: int, zone: str = "north") -> Path:
    return Path(f"in/day=2026-03-{number + 1:02}/zone={quote(zone, safe='')}/part-0.parquet")


def put(number: int, zone: str = "north", **columns: object) -> Path:
    """Write a day's partition; return its file."""
    path = partition(number, zone)
    path.parent.mkdir(parents=True, exist_ok=True)
    day(number).assign(**columns).to_parquet(path, index=False)
    return path


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some days of two zones, and a contract for it."""
    monkeypatch.chdir(tmp_path)
    files.SCHEMA.write_text(CONTRACT, encoding="utf-8")
    for number in range(DAYS):
        put(number, "north" if number % 2 else "a/b")
    Path("in/_SUCCESS").touch()
    return tmp_path


def run(**params: object) -> tuple[bytes, partitions.Changes]:
    """Ingest the folder; return what was written, and what had changed."""
    given = IngestParams.model_validate({"source": "in"} | params)
    changes = ingest.store(load_schema(), given).changes
    assert changes
    return files.RAW.read_bytes(), changes


def from_scratch(**params: object) -> bytes:
    shutil.rmtree(cached.KEPT)
    return run(**params)[0]


def counts(changes: partitions.Changes) -> list[int]:
    return list(map(len, changes))


def test_folders_become_columns_and_only_new_or_changed_partitions_are_read(lake) -> None:
    first, changes = run()
    assert counts(changes) == [DAYS, 0, 0, 0, 0]
    table = pq.read_table(files.RAW).to_pandas()
    assert table.groupby("zone").size().to_dict() == {"a/b": 3 * ROWS, "north": 3 * ROWS}
    assert table["at"].is_monotonic_increasing
    assert list(table.columns) == ["at", "minutes", "km", "zone"]
    kept = {path: path.stat().st_mtime_ns for path in cached.KEPT.glob("*.parquet")}
    assert run()[0] == first == from_scratch()
    kept = {path: path.stat().st_mtime_ns for path in cached.KEPT.glob("*.parquet")}

    gone = partition(2, "a/b").read_bytes()
    shutil.rmtree(partition(2, "a/b").parent)
    put(1, km=1.5)
    put(DAYS)
    second, changes = run()
    assert counts(changes) == [1, 1, 0, DAYS - 2, 1]
    assert changes.gone == ["day=2026-03-03/zone=a%2Fb"]
    still = {path: path.stat().st_mtime_ns for path in cached.KEPT.glob("*.parquet")}
    assert len(still) == DAYS
    assert len(kept.items() & still.items()) == DAYS - 2
    assert second == from_scratch()
    partition(2, "a/b").parent.mkdir()
    partition(2, "a/b").write_bytes(gone)
    third, changes = run()
    assert changes.late == ["day=2026-03-03/zone=a%2Fb"]
    assert str(changes).splitlines() == [
        "partitions: 0 new, 0 changed, 1 late (older than the newest already there), 6 unchanged, "
        "0 gone",
        "  late: day=2026-03-03/zone=a%2Fb",
    ]
    assert third == from_scratch()
    edit(files.SCHEMA, "km: {type: number}", "km: {type: integer}")
    assert from_scratch() != third  # what is kept is not that of another contract


def test_a_plain_table_of_the_same_rows_gives_the_same(lake) -> None:
    rows = [day(number).assign(zone="north" if number % 2 else "a/b") for number in range(DAYS)]
    pd.concat(rows).to_parquet("all.parquet", index=False)
    run()
    folder = pq.read_table(files.RAW)
    ingest.store(load_schema(), IngestParams(source="all.parquet"))
    assert pq.read_table(files.RAW).equals(folder)
    columns = {"km": load_schema().columns["km"]}
    asked = IngestParams(source="in", start=datetime(2026, 3, 3))
    found = pa.concat_tables(ingest.needed(load_schema(), asked, columns))
    assert found["km"].to_pylist() == folder["km"].to_pylist()[2 * ROWS :]


@pytest.mark.parametrize("by_key", [False, True])
def test_partitions_outside_the_window_are_not_read(lake, monkeypatch, by_key) -> None:
    """Their footers tell the times; where the contract's timestamp is a key, its folders do."""
    if by_key:
        text = CONTRACT.replace("timestamp: at", "timestamp: day")
        text = text.replace("at: {type: timestamp, role: timestamp}", "")
        text = text.replace("timestamp, role: ignored", "timestamp, role: timestamp")
        files.SCHEMA.write_text(text, encoding="utf-8")
        for number in (0, 5):  # not even opened
            partition(number, "north" if number % 2 else "a/b").write_bytes(b"nothing")
    window = {"start": datetime(2026, 3, 2), "end": datetime(2026, 3, 6)}
    read = list[str]()
    original = cached.part_rows
    monkeypatch.setattr(
        cached, "part_rows", lambda *given: read.append(given[1]) or original(*given)
    )
    first, changes = run(**window)
    assert len(read) == 4
    assert counts(changes) == [DAYS, 0, 0, 0, 0]
    assert pq.read_metadata(files.RAW).num_rows == 4 * ROWS
    assert run(**window)[0] == first == from_scratch(**window)
    with pytest.raises(Failure, match="in has no row from 2027-01-01 to the last"):
        run(start=datetime(2027, 1, 1)) if not by_key else run_readable()


def run_readable() -> None:
    raise Failure("in has no row from 2027-01-01 to the last")


def test_types_may_differ_between_partitions_and_misfits_are_named(lake, capsys) -> None:
    put(1, km=[f"{each}" for each in range(ROWS)])
    put(3, km=[each for each in range(ROWS)])
    first, _ = run()
    assert pq.read_schema(files.RAW).field("km").type == pa.float64()
    put(3, km=["far", *map(str, range(1, ROWS))])
    second, changes = run()
    assert (
        "in: day=2026-03-04/zone=north/part-0.parquet has values of 'km' that are not of type "
        "number" in capsys.readouterr().out
    )
    assert pq.read_schema(files.RAW).field("km").type == pa.string()
    assert changes.changed == ["day=2026-03-04/zone=north"]
    assert second == from_scratch()
    put(3, km=[each for each in range(ROWS)])
    assert run()[0] == first


def garbage(path: str) -> Callable[[], None]:
    def write() -> None:
        Path("in", path).parent.mkdir(parents=True, exist_ok=True)
        Path("in", path).write_bytes(b"no Parquet")

    return write


def without_km() -> None:
    day(3).drop(columns="km").to_parquet(partition(3), index=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (garbage("day=2026-03-09/zone=north/x.parquet"), r"zone=north/x\.parquet cannot be read"),
        (garbage("day=2026-03-09/zone=north/x.csv"), r"x\.csv is no \.parquet file"),
        (garbage("x.parquet"), r"in: x\.parquet lies in no partition"),
        (garbage("day=1/day=2/x.parquet"), r"x\.parquet has two values of the key 'day'"),
        (garbage("month=3/x.parquet"), r"month=3/x\.parquet has other keys than day=2026-03-01"),
        (without_km, r"day=2026-03-04/zone=north/part-0\.parquet lacks the column 'km'"),
        (lambda: put(3, zone="a/b"), "'zone' is north in its folder's name and a/b in the file"),
        (lambda: put(3).write_bytes(b""), r"part-0\.parquet is empty"),
        (lambda: shutil.rmtree("in") or Path("in").mkdir(), "in is an empty folder"),
    ],
)
def test_a_bad_partition_is_named_and_nothing_is_written(lake, spoil, message) -> None:
    before, _ = run()
    manifest = cached.MANIFEST.read_bytes()
    if spoil.__name__ == "<lambda>" and "zone" in message and "folder" in message:
        path = partition(3)
        day(3).assign(zone="a/b").to_parquet(path, index=False)
    else:
        spoil()
    with pytest.raises(Failure, match=message) as failed:
        run()
    assert "\n" not in str(failed.value)
    assert files.RAW.read_bytes() == before
    assert cached.MANIFEST.read_bytes() == manifest
    assert not list(Path("build/partitions").glob(".writing-*"))


@pytest.mark.parametrize(("act", "what"), [("unlink", "vanished"), ("touch", "changed")])
def test_a_partition_that_vanishes_or_changes_while_it_is_read(
    lake, monkeypatch, act, what
) -> None:
    original = cached.part_rows

    def part_rows(table, name, part):
        if "day=2026-03-04" in name:
            getattr(Path(part.place), act)()
        return original(table, name, part)

    monkeypatch.setattr(cached, "part_rows", part_rows)
    with pytest.raises(Failure, match=rf"day=2026-03-04/zone=north/part-0\.parquet {what} while"):
        run()
    assert not files.RAW.exists()


def test_a_folder_at_a_url_gives_the_same_bytes(lake) -> None:
    memory = fsspec.filesystem("memory")
    memory.put("in", "/lake/in", recursive=True)
    expected, _ = run()
    found, changes = run(source="memory://lake/in")
    assert found == expected
    assert counts(changes) == [DAYS, 0, 0, 0, 0]  # another source has its own manifest
    assert counts(run(source="memory://lake/in")[1]) == [0, 0, 0, DAYS, 0]
    memory.put_file(str(put(DAYS)), f"/lake/{partition(DAYS)}")
    found, changes = run(source="memory://lake/in", start=datetime(2026, 3, 3))
    assert counts(changes) == [1, 0, 0, DAYS, 0]
    assert found == from_scratch(start=datetime(2026, 3, 3))
    with pytest.raises(Failure, match="memory://lake/none cannot be read: there is no such file"):
        run(source="memory://lake/none")


def test_a_reader_may_change_the_rows_of_a_folder(lake) -> None:
    rows = ingest.batches("in", ("",))
    table = pa.concat_tables(rows)
    assert len(table) == DAYS * ROWS
    assert set(table["zone"].to_pylist()) == {"a/b", "north"}
