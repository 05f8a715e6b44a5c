import itertools
import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.cli.app import APP
from mlops_loop.contract import compatibility
from mlops_loop.contract.compatibility import BREAK, HARMLESS, RETRAIN
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.serving.request_schema import Invalid, Reader

from .made_up import made_up_contract

CONTRACT = """
name: trips
task: binary-classification
target: late
positive: "yes"
timestamp: time
columns:
  time: {type: timestamp, role: timestamp}
  number: {type: id, role: id}
  late: {type: category, role: target, categories: ["yes", "no"]}
  way: {type: number, unit: km, minimum: 0, maximum: 100}
  stops: {type: integer, maximum: 9, nullable: true}
  sort: {type: category, categories: [bus, tram]}
"""
LENGTH = """
name: trips
task: regression
target: length
columns:
  length: {type: number, role: target, unit: km, minimum: 0}
  way: {type: number}
"""


def kinds(contract: str, *edits: tuple[str, str]) -> list[tuple[str, str]]:
    changed = contract
    for old, new in edits:
        assert old in changed
        changed = changed.replace(old, new)
    read = [parse_yaml(text, "schema.yaml", Schema) for text in (contract, changed)]
    return [(change.kind, change.where) for change in compatibility.changes(*read)]


EDITS = [
    ("name: trips", "name: rides", HARMLESS, "name"),
    ("name: trips", "name: trips\nmissing: ['', NA]", RETRAIN, "missing"),
    ('positive: "yes"', 'positive: "no"', BREAK, "positive"),
    ('["yes", "no"]', '["no", "yes"]', HARMLESS, "columns.late.categories"),
    ("km", "miles", BREAK, "columns.way.unit"),
    ("unit: km, ", "", HARMLESS, "columns.way.unit"),
    ("minimum: 0", "description: Far, minimum: 0", HARMLESS, "columns.way.description"),
    ("maximum: 100", "maximum: 200", RETRAIN, "columns.way.maximum"),
    ("maximum: 9, ", "maximum: 8, ", BREAK, "columns.stops.maximum"),
    ("[bus, tram]", "[bus, tram, rail]", RETRAIN, "columns.sort.categories"),
    ("[bus, tram]", "[bus]", BREAK, "columns.sort.categories"),
    ("number: {type: id", "number: {type: integer", HARMLESS, "columns.number.type"),
    ("role: timestamp", "role: timestamp, format: '%Y'", RETRAIN, "columns.time.format"),
    ("  sort:", "  new: {type: boolean}\n  sort:", BREAK, "columns.new"),
    ("  sort:", "  new: {type: boolean, nullable: true}\n  sort:", RETRAIN, "columns.new"),
    ("  sort:", "  new: {type: boolean, role: slice}\n  sort:", HARMLESS, "columns.new"),
    ("type: number,", "type: number, role: ignored,", BREAK, "columns.way"),
    ("  number: {type: id, role: id}\n", "", HARMLESS, "columns.number"),
]


@pytest.mark.parametrize(("old", "new", "kind", "where"), EDITS)
def test_what_one_change_means(old, new, kind, where) -> None:
    assert kinds(CONTRACT, (old, new)) == [(kind, where)]


def test_what_changes_of_the_answers_mean() -> None:
    renamed = kinds(CONTRACT, ('"no"', '"never"'))
    assert renamed == [(BREAK, "columns.late.categories")]
    more = ('"no"]', '"no", maybe]'), ("binary", "multiclass"), ('positive: "yes"\n', "")
    assert (BREAK, "task") in kinds(CONTRACT, *more)
    assert kinds(LENGTH, ("minimum: 0", "minimum: 1")) == [(RETRAIN, "columns.length.minimum")]
    assert kinds(LENGTH, ("unit: km", "unit: m")) == [(BREAK, "columns.length.unit")]
    moved = ("role: target, ", ""), ("way: {", "way: {role: target, ")
    assert (BREAK, "target") in kinds(LENGTH, ("target: length", "target: way"), *moved)
    late = ("timestamp: time\n", ""), ("role: timestamp", "role: ignored")
    assert set(kinds(CONTRACT, *late)) == {(RETRAIN, "timestamp"), (RETRAIN, "columns.time")}


def contracts() -> list[Schema]:
    """Every kind of feature `x`, and none."""
    limits = itertools.product(("number", "integer"), (None, 0, 1), (None, 5, 6))
    columns = [{"type": kind, "minimum": low, "maximum": high} for kind, low, high in limits]
    for names, unseen in itertools.product((["a"], ["b"], ["a", "b"]), (True, False)):
        columns += [{"type": "category", "categories": names, "allow_unknown": unseen}]
    columns += [{"type": "boolean"}]
    columns = [column | {"nullable": nullable} for column in columns for nullable in (True, False)]
    columns += [{"type": "number", "role": role} for role in ("input", "slice", "ignored")]
    columns += [{"type": "number", "derived": True}]
    tables = [{}, *({"x": column} for column in columns)]
    return [made_up_contract("regression", {"other": {"type": "boolean"}} | xs) for xs in tables]


def accepted(schema: Schema) -> frozenset[int]:
    """Which of the rows that could be sent the API takes."""
    values = [None, True, -1, 0, 0.5, 1, 1.5, 5, 5.5, 6, 7, "a", "b", "z"]
    rows = [{"other": True}, *({"other": True, "x": value} for value in values)]
    reader, taken = Reader(schema), set()
    for place, row in enumerate(rows):
        with suppress(Invalid):
            reader.read(json.dumps({"rows": [row]}).encode())
            taken.add(place)
    return frozenset(taken)


def test_a_break_is_exactly_what_the_api_would_refuse() -> None:
    taken = [(schema, accepted(schema)) for schema in contracts()]
    for (old, before), (new, after) in itertools.product(taken, taken):
        found = compatibility.changes(old, new)
        assert any(change.kind == BREAK for change in found) == (not before <= after), found


def test_every_key_of_a_contract_is_judged() -> None:
    """Whoever adds a key decides here whether it is a text or a tolerance."""
    free = "role derived description max_null mostly max_shift protected pii slice"
    column = Column(type="number")
    judged = compatibility.of_keys(column, column)
    assert set(Column.model_fields) == {*judged, *free.split()}
    free = "columns name description limits unique min_rows mlops_loop max_duplicates max_overlap"
    judged = {*compatibility.TABLE, "max_leakage", "max_shift"}
    assert set(Schema.model_fields) == {*judged, *free.split()}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository, in a folder of which the contract changed since its commit."""
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("schema.yaml").write_text(CONTRACT)
    for command in ("init -q ..", "add .", "-c user.name=a -c user.email=a@b.c commit -qm x"):
        subprocess.run(["git", *command.split()], check=True)
    Path("schema.yaml").write_text(CONTRACT.replace("maximum: 100", "maximum: 50"))
    return folder


def test_files_and_revisions_are_compared(repository, capsys) -> None:
    for place in ("HEAD", "HEAD:inner/schema.yaml"):
        with pytest.raises(Refusal, match=r"clients would break: columns\.way\.maximum$"):
            compatibility.check(place, "schema.yaml")
    assert "100 -> 50" in capsys.readouterr().out
    compatibility.check("schema.yaml", "HEAD")
    assert "no change breaks" in capsys.readouterr().out
    done = CliRunner().invoke(APP, ["schema", "check", "HEAD"])
    assert isinstance(done.exception, Refusal)
    assert "columns.way.maximum" in done.output


PLACES = ["nothing", "HEAD:nothing", "--output=x:y", "other.yaml", "broken.yaml"]


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_read_is_one_line(repository, place) -> None:
    Path("other.yaml").write_bytes(b"\xff\xfe\x00")
    Path("broken.yaml").write_text("columns: {}")
    with pytest.raises(Failure, match=rf"^[^\n]*{place}[^\n]*$"):
        compatibility.check(place, "schema.yaml")
    assert len(list(repository.iterdir())) == 3
