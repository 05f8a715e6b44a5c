import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import command as project_command
from mlops_loop.batch.score import score
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.scoring.bundle import MANIFEST, Manifest, read_document, write_manifest

MANY = 4 * files.BATCH


def table(rows: int) -> pa.Table:
    """Rows of the test window with a number each, as many as asked for: they repeat."""
    found = pa.Table.from_pandas(tables.read_table(files.TEST)[list(load_schema().inputs)])
    found = found.replace_schema_metadata()
    found = pa.concat_tables([found] * (rows // len(found) + 1)).slice(0, rows)
    return found.append_column("row number", pa.array(range(rows)))


def spoilt(schema: Schema) -> tuple[str, str]:
    """A feature, and a text that no row may have there."""
    wrong = {"boolean": "maybe", "category": "no such category", "timestamp": "tomorrow"}
    for name, column in schema.inputs.items():
        if not column.allow_unknown:
            return name, wrong.get(column.type, "far")
        if not column.nullable:
            return name, ""
    pytest.skip("the contract allows any row")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_bad_rows_are_set_aside_with_the_reason_and_the_others_scored_as_without_them(
    project, suffix
) -> None:
    name, value = spoilt(load_schema())
    rows = table(300).to_pandas()
    rows.to_csv("good.csv", index=False)
    rows[name] = rows[name].astype(object).mask(rows["row number"] % 100 == 7, value)
    rows.to_csv("some_bad.csv", index=False)
    assert score("good.csv", f"whole{suffix}")[:2] == (300, 0)
    *counts, rejects = score("some_bad.csv", f"scored{suffix}")
    assert (counts, rejects) == ([297, 3], f"scored.rejects{suffix}")
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    whole, scored, rejected = (
        read(path).astype({"row number": int})
        for path in (f"whole{suffix}", f"scored{suffix}", rejects)
    )
    assert list(rejected["row number"]) == [7, 107, 207]
    assert rejected["reason"].str.startswith(f"{name} is ").all()
    kept = whole[~whole["row number"].isin(rejected["row number"])].reset_index(drop=True)
    answered = list(whole.columns[len(rows.columns) :])
    pd.testing.assert_frame_equal(kept[answered], scored[answered])


def test_folders_are_scored_file_by_file(project) -> None:
    rows = table(300)
    Path("in/deep").mkdir(parents=True)
    pq.write_table(rows.slice(0, 100), "in/b.parquet")
    pq.write_table(rows.slice(100, 50), "in/deep/a.parquet")
    rows.slice(150).to_pandas().to_csv("in/c.csv.gz", index=False)
    json_lines = {"orient": "records", "lines": True, "date_format": "iso"}
    rows.slice(0, 2).to_pandas().to_json("in/d.jsonl", **json_lines)
    Path("in/_SUCCESS").touch()
    Path("in/.hidden").touch()
    assert score("in", "out") == (302, 0, "out.rejects")
    names = ["b.parquet", "c.csv", "d.parquet", "deep/a.parquet"]
    for folder in ("out", "out.rejects"):
        found = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert sorted(path.relative_to(folder).as_posix() for path in found) == names
    score("in/b.parquet", "alone.parquet")
    assert pq.read_table("out/b.parquet").equals(pq.read_table("alone.parquet"))
    assert not list(Path().glob(".*parts"))
    rows.to_pandas().to_csv("in/b.tsv", sep="\t", index=False)
    for source, target, what in (
        ("in", "out", "out is a folder with other files"),
        ("in", "in/out", "overwritten by its own"),
        ("in/b.tsv", "in/b.tsv", "in/b.tsv: predictions are written to .parquet or .csv"),
        ("in", "out.parquet", "in is a folder: OUTPUT must be one too"),
        ("in", "other", r"two files would be called b\.parquet"),
        ("none.csv", "other.csv", r"none\.csv is not there"),
    ):
        with pytest.raises(Failure, match=what):
            score(source, target)
    shutil.rmtree("in")
    for name, what in (("", "in is an empty folder"), ("notes.txt", "the name must end in")):
        Path("in").mkdir(exist_ok=True)
        Path("in", name or ".hidden").touch()
        with pytest.raises(Failure, match=what):
            score("in", "other")


def test_urls_are_read_and_written(project, tmp_path) -> None:
    rows, memory = table(100), fsspec.filesystem("memory")
    pq.write_table(rows, "rows.parquet")
    memory.put_file("rows.parquet", "/in/rows.parquet")
    memory.put_file("rows.parquet", "/in/deep/rows.parquet")
    score("rows.parquet", "scored.parquet")
    expected = Path("scored.parquet").read_bytes()
    done = score("memory://in/rows.parquet", "memory://out/scored.parquet")
    assert done == (100, 0, "memory://out/scored.rejects.parquet")
    assert memory.cat_file("/out/scored.parquet") == expected
    assert memory.exists("/out/scored.rejects.parquet")
    assert score("memory://in", "memory://out/all")[:2] == (200, 0)
    assert memory.cat_file("/out/all/deep/rows.parquet") == expected
    place = (tmp_path / "there" / "scored.parquet").as_uri()
    assert score(Path("rows.parquet").absolute().as_uri(), place)[:2] == (100, 0)
    assert (tmp_path / "there" / "scored.parquet").read_bytes() == expected
    with pytest.raises(Failure, match=r"none\.csv cannot be read: there is no such file"):
        score("memory://in/none.csv", "x.csv")
    assert not list(Path("build").glob("scoring/*"))


def test_a_failure_leaves_what_was_there(project) -> None:
    rows = table(10)
    Path("scored.csv").write_text("old")
    before = set(Path().rglob("*")) | {Path("bad.csv"), Path("empty.parquet")}
    pq.write_table(rows.slice(0, 0), "empty.parquet")
    with pytest.raises(Failure, match="has no rows"):
        score("empty.parquet", "scored.csv")
    needed = [name for name, column in load_schema().inputs.items() if not column.nullable]
    if needed:
        rows.drop_columns(needed[:1]).to_pandas().to_csv("bad.csv", index=False)
        missing = re.escape(f"bad.csv: the column '{needed[0]}' is missing")
        with pytest.raises(Failure, match=missing):
            score("bad.csv", "scored.csv")
    assert Path("scored.csv").read_text() == "old"
    assert set(Path().rglob("*")) <= before


def test_one_process_at_a_time_scores_to_a_place(project) -> None:
    pq.write_table(table(10), "rows.parquet")
    parts = Path(".scored.csv.parts")
    parts.mkdir()
    with (
        FileLock(parts / "lock"),
        pytest.raises(Failure, match=r"another process scores to scored\.csv"),
    ):
        score("rows.parquet", "scored.csv")
    assert score("rows.parquet", "scored.csv")[:2] == (10, 0)
    assert not parts.exists()


def stop(signal_number: int) -> str:
    """Score rows.parquet in a process, and stop it after the first part; return what it said."""
    command = [*project_command(), "score", "rows.parquet", "scored.parquet"]
    with Path("output.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while not list(Path(".scored.parquet.parts").glob("*-0.arrow")):
            assert process.poll() is None, Path("output.txt").read_text()
            time.sleep(0.01)
        process.send_signal(signal_number)
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert not Path("scored.parquet").exists()
    return Path("output.txt").read_text()


def mark(parts: Path) -> str:
    """Change the first answer that was kept, to see whether it is used; return its column."""
    part = next(parts.glob("*-0.arrow"))
    found = pa.ipc.open_file(part.read_bytes()).read_all()
    name = found.column_names[-2]
    marked = pa.chunked_array([pa.array([-1.0]), *found[name].slice(1).chunks])
    found = found.set_column(found.column_names.index(name), name, marked)
    with pa.ipc.new_file(str(part), found.schema) as writer:
        writer.write_table(found)
    return name


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_run_is_taken_up_unless_the_input_or_the_model_changed(project) -> None:
    rows = table(MANY)
    parts = Path(".scored.parquet.parts")
    pq.write_table(rows, "rows.parquet")
    stop(signal.SIGKILL)
    name = mark(parts)
    shutil.copytree(parts, "left")
    torn = next(Path("left").glob("*-0.arrow")).name.replace("-0.", "-1.")
    (parts / torn).write_bytes(b"ARROW1 and no more")
    assert score("rows.parquet", "scored.parquet")[:2] == (MANY, 0)
    resumed = pq.read_table("scored.parquet")
    assert not parts.exists()

    score("rows.parquet", "fresh.parquet")
    fresh = pq.read_table("fresh.parquet")
    assert resumed.slice(1).equals(fresh.slice(1))
    assert resumed[name][0].as_py() == -1  # the part was used, not scored again
    assert fresh[name][0].as_py() != -1

    swapped = [rows.slice(0, 1), rows.slice(2, 1), rows.slice(1, 1), rows.slice(3)]
    shutil.copytree("left", parts)
    pq.write_table(pa.concat_tables(swapped), "rows.parquet")
    score("rows.parquet", "scored.parquet")
    assert pc.min(pq.read_table("scored.parquet")[name]).as_py() == pc.min(fresh[name]).as_py()

    shutil.copytree("left", parts)
    pq.write_table(rows, "rows.parquet")
    manifest = read_document(files.BUNDLE / MANIFEST, Manifest)
    write_manifest(files.BUNDLE, manifest.model_copy(update={"name": "another"}))
    score("rows.parquet", "scored.parquet")
    assert pq.read_table("scored.parquet").equals(fresh)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_without_a_traceback_and_keeps_the_parts(project) -> None:
    pq.write_table(table(4 * MANY), "rows.parquet")  # on a busy machine, too, it is not done sooner
    said = stop(signal.SIGINT)
    assert "Traceback" not in said
    assert list(Path(".scored.parquet.parts").glob("*.arrow"))


def test_rows_of_odd_types_are_judged_and_never_end_in_a_traceback(project) -> None:
    for number, value in enumerate([[1], {"a": 1}, "x" * 10**6, -1e300]):
        row = dict.fromkeys(load_schema().inputs, value)
        Path("odd.jsonl").write_text(json.dumps(row), encoding="utf-8")
        for suffix in (".csv", ".parquet"):
            scored, rejected, _ = score("odd.jsonl", f"odd{number}{suffix}")
            assert scored + rejected == 1
