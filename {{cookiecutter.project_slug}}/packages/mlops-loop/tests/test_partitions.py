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
from mlops_loop.batch import score as scoring
from mlops_loop.batch.incremental import MANIFEST, score_new
from mlops_loop.batch.score import score
from mlops_loop.cli import operate
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import ingest
from mlops_loop.data.source import cached, partitions

from .conftest import edit
from .test_score import table

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


def put(number: int, folder: str = "north", **columns: object) -> Path:
    """Write a day's partition; return its file."""
    path = partition(number, folder)
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
    put(0, "a/b")
    with pytest.raises(Failure, match="in has no row from 2027-01-01 to the last"):
        run(start=datetime(2027, 1, 1))


def test_types_may_differ_between_partitions_and_misfits_are_named(lake, capsys) -> None:
    put(1, km=[f"{each}" for each in range(ROWS)])
    put(3, km=list(range(ROWS)))
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
    put(3, km=list(range(ROWS)))
    assert run()[0] == first


def garbage(path: str) -> Callable[[], None]:
    def write() -> None:
        Path("in", path).parent.mkdir(parents=True, exist_ok=True)
        Path("in", path).write_bytes(b"no Parquet")

    return write


def empty() -> None:
    shutil.rmtree("in")
    Path("in").mkdir()


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
        (empty, "in is an empty folder"),
    ],
)
def test_a_bad_partition_is_named_and_nothing_is_written(lake, spoil, message) -> None:
    before, _ = run()
    manifest = cached.MANIFEST.read_bytes()
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


@pytest.fixture
def arrivals(project: Path) -> str:
    """Rows to score, in partitions by a category that the model needs; its name."""
    inputs = load_schema().inputs.items()
    names = [name for name, one in inputs if one.type == "category" and one.categories]
    if not names:
        pytest.skip("the contract has no such column")
    rows = table(400).to_pandas()
    for number in range(4):
        for value, some in rows[number * 100 :][:100].groupby(names[0], observed=True):
            folder = Path(f"in/date=2026-03-{number + 1:02}/{names[0]}={quote(str(value))}")
            folder.mkdir(parents=True)
            some.drop(columns=names[0]).to_parquet(folder / "rows.parquet", index=False)
    rows.to_parquet("whole.parquet", index=False)
    return names[0]


def answers(folder: str) -> pd.DataFrame:
    """Return all predictions of a folder, in the order of the rows that were scored."""
    read = [pq.read_table(path, partitioning=None) for path in Path(folder).rglob("*.parquet")]
    whole = pa.concat_tables(read, promote_options="permissive").to_pandas()
    return whole.sort_values("row number", ignore_index=True)


def contents(folder: str) -> dict[str, bytes]:
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_partitions_are_scored_in_their_folders_which_are_inputs(arrivals) -> None:
    assert score("in", "out")[:2] == (400, 0)
    assert contents("out").keys() == contents("in").keys()
    score("whole.parquet", "whole_scored.parquet")
    whole = pd.read_parquet("whole_scored.parquet").drop(columns=arrivals)
    pd.testing.assert_frame_equal(answers("out")[whole.columns], whole, check_dtype=False)
    (again, changes, _) = score_new("in", "bit_by_bit")
    assert again.scored == 400
    assert len(changes.new) == len(contents("in"))
    found = contents("bit_by_bit")
    del found[MANIFEST]
    assert found == contents("out")


def test_only_what_is_new_or_changed_or_of_another_model_is_scored(
    arrivals, monkeypatch, capsys
) -> None:
    shutil.move("in/date=2026-03-04", "later")
    shutil.move("in/date=2026-03-02", "late")
    operate.score("in", "out", incremental=True)
    before = contents("out")
    assert capsys.readouterr().out.splitlines()[1].startswith("200 rows scored: out")
    assert score_new("in", "out").outcome == (0, 0, "out.rejects")
    assert contents("out") == before

    shutil.move("later", "in/date=2026-03-04")
    shutil.move("late", "in/date=2026-03-02")
    first, second = sorted(Path("in/date=2026-03-01").rglob("*.parquet"))[:2]
    rows = pq.read_table(first)
    pq.write_table(pa.concat_tables([rows, rows]), first)
    second.unlink()
    done, changes, again = score_new("in", "out")
    assert (done.scored, again) == (200 + 2 * len(rows), 0)
    assert changes.changed == [first.parent.relative_to("in").as_posix()]
    assert changes.gone == [second.parent.relative_to("in").as_posix()]
    assert {name.partition("/")[0] for name in changes.late} == {"date=2026-03-02"}
    assert {name.partition("/")[0] for name in changes.new} == {"date=2026-03-04"}
    gone = second.relative_to("in").as_posix()
    assert contents("out")[gone] == before[gone]  # predictions stay
    score("in", "whole")
    same = contents("out")
    assert {name: same[name] for name in contents("whole")} == contents("whole")

    bundle = files.read_json(files.BUNDLE / "bundle.json")
    files.write_json(files.BUNDLE / "bundle.json", bundle | {"name": "another"})
    update = score_new("in", "out")
    assert update.again == len(contents("in"))
    assert "unchanged files scored again" in str(update)


def test_a_run_that_is_stopped_is_made_up_for(arrivals, monkeypatch) -> None:
    shutil.move("in/date=2026-03-04", "later")
    score_new("in", "out")
    manifest = Path("out", MANIFEST).read_bytes()
    shutil.move("later", "in/date=2026-03-04")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score_new("in", "out")
    assert Path("out", MANIFEST).read_bytes() == manifest
    Path("out/date=2026-03-04").mkdir()  # as if it had been stopped between two files
    name = next(Path("in/date=2026-03-04").rglob("*.parquet")).relative_to("in")
    Path("out", name).parent.mkdir()
    Path("out", name).write_bytes(b"old")
    assert score_new("in", "out").outcome.scored == 100
    assert len(answers("out")) == 400


def test_a_url_is_added_to(arrivals) -> None:
    memory = fsspec.filesystem("memory")
    memory.put("in/date=2026-03-01", "/arriving/in/date=2026-03-01", recursive=True)
    assert score_new("memory://arriving/in", "memory://arriving/out").outcome.scored == 100
    memory.put("in/date=2026-03-02", "/arriving/in/date=2026-03-02", recursive=True)
    assert score_new("memory://arriving/in", "memory://arriving/out").outcome.scored == 100
    memory.get("/arriving/out", "copy", recursive=True)
    assert len(answers("copy")) == 200


def test_what_cannot_be_added_to_is_refused(arrivals) -> None:
    Path("own").mkdir()
    Path("own/notes.parquet").touch()
    score("in", "whole")
    score_new("in", "out")
    Path("out/own.parquet").touch()
    Path("broken").mkdir()
    Path("broken", MANIFEST).write_text("[]")
    for source, target, what in (
        ("in", "own", "own is a folder with other files"),
        ("in", "whole", "whole is a folder with other files"),
        ("in", "out", r"out holds own\.parquet, which score did not write"),
        ("in", "broken", r"broken/_scored\.json is no manifest"),
        ("whole.parquet", "one.parquet", r"whole\.parquet is no folder"),
    ):
        with pytest.raises(Failure, match=what):
            score_new(source, target)


@pytest.mark.parametrize("do", [score, score_new])
def test_a_file_that_vanishes_or_disagrees_leaves_nothing(arrivals, monkeypatch, do) -> None:
    *_, last = sorted(Path("in").rglob("*.parquet"))
    rows = pd.read_parquet(last)
    rows.assign(**{arrivals: "other"}).to_parquet(last, index=False)
    with pytest.raises(Failure, match="in its folder's name and other in the file"):
        do("in", "out")

    def score_file(*given):
        last.unlink(missing_ok=True)
        return original(*given)

    original = scoring.score_file
    monkeypatch.setattr(scoring, "score_file", score_file)
    with pytest.raises(Failure, match=rf"{last.name} vanished while its folder was read"):
        do("in", "out")
    assert not Path("out").exists()
