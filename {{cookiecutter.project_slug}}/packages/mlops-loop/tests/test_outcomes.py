import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
import sqlalchemy as sa
from typer.testing import CliRunner

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.batch.ground_truth import record_file
from mlops_loop.cli.app import APP
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.predictions import Entry, insert_predictions, to_lines
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS

URL = "sqlite:///predictions.db"


def predicted(count: int, days: int = 0) -> list[str]:
    """Log some predictions; return their ids."""
    prefix, when = uuid.uuid4().hex[:28], datetime(2026, 1, 1 + days, tzinfo=UTC)
    rows = to_lines([{}] * count, [{}] * count)
    engine = open_log(URL)
    with engine.begin() as connection:
        insert_predictions(
            connection, [Entry(prefix, when, None, "1", "champion", None, 1.0, rows)]
        )
    return [f"{prefix}{row:04x}" for row in range(count)]


def values(schema: Schema, count: int) -> list[Any]:
    """Return values of the target, as a table has them."""
    table = tables.read_table(files.TEST)[schema.target].dropna()
    return list(table.head(count).tolist())


def recorded() -> dict[str, Any]:
    with open_log(URL).connect() as connection:
        query = sa.select(OUTCOMES.c.prediction_id, OUTCOMES.c.value)
        return dict(tuple(row) for row in connection.execute(query))


def write(path: str, ids: list[str], truths: list[Any]) -> str:
    table = pd.DataFrame({"prediction_id": ids, "value": truths})
    if path.endswith(".csv"):
        table.to_csv(path, index=False)
    elif path.endswith(".jsonl"):
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("name", ["late.csv", "late.jsonl", "late.parquet"])
def test_a_file_of_outcomes_is_recorded_and_again_changes_nothing(project: Path, name: str) -> None:
    schema = load_schema()
    ids, truths = predicted(50), values(schema, 50)
    path = write(name, ids, truths)
    assert record_file(path) == (50, 0, 0, 0, 0)
    assert record_file(path) == (0, 50, 0, 0, 0)
    assert recorded() == dict(zip(ids, truths, strict=True))
    other = next(value for value in schema.classes or (7.0, 8.0) if value != truths[0])
    assert record_file(write(name, ids[:2], [other, truths[1]])) == (0, 1, 1, 0, 0)
    assert recorded()[ids[0]] == other
    assert not list(Path().glob("late.*.csv"))


def test_unknown_and_wrong_outcomes_are_put_beside_the_file(project: Path) -> None:
    schema = load_schema()
    ids, truths, strange = predicted(5), values(schema, 5), uuid.uuid4().hex
    wrong = "no such class" if schema.classes else "far"
    write("late.csv", [*ids, strange], [wrong, None, *truths[2:], truths[0]])
    result = CliRunner().invoke(APP, ["outcomes", "late.csv"])
    assert result.exit_code == 0
    assert "3 recorded, 0 there already, 0 corrected" in result.output
    assert "1 for predictions that the log does not hold: late.unknown.csv" in result.output
    assert "2 break the contract: late.rejects.csv" in result.output
    assert set(recorded()) == set(ids[2:])
    assert pd.read_csv("late.unknown.csv")["prediction_id"].tolist() == [strange]
    rejects = pd.read_csv("late.rejects.csv")
    assert rejects["prediction_id"].tolist() == ids[:2]
    assert rejects["value"].fillna("").tolist() == [wrong, ""]
    assert rejects["reason"].str.startswith("value ").all()
    write("late.csv", [*ids[:1], strange], [wrong, truths[0]])
    result = CliRunner().invoke(APP, ["outcomes", "late.csv"])
    assert isinstance(result.exception, Refusal)
    assert "0 of 2 outcomes were accepted" in str(result.exception)
    write("late.csv", ids[2:], truths[2:])
    assert record_file("late.csv") == (0, 3, 0, 0, 0)
    assert not list(Path().glob("late.*.csv"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prediction_id,truth\n1,2\n", "'value' is missing"),
        ("value\n2\n", "'prediction_id' is missing"),
        ("prediction_id,value\n", "no rows"),
    ],
)
def test_a_file_of_something_else_is_refused(project: Path, text: str, words: str) -> None:
    Path("late.csv").write_text(text, encoding="utf-8")
    with pytest.raises(Failure, match=words):
        record_file("late.csv")


def test_outcomes_of_the_api_are_checked_before_any_is_recorded(client) -> None:
    def send(*pairs: tuple[str, Any]) -> requests.Response:
        told = [{"prediction_id": name, "value": value} for name, value in pairs]
        content = json.dumps({"outcomes": told})
        headers = {"Content-Type": "application/json"}
        return client.post("/v1/outcomes", content=content, headers=headers)

    ids, truths = predicted(3), values(load_schema(), 3)
    for value in (None, True, [], {}, "no such class", 1e39, float("nan")):
        answer = send((ids[0], truths[0]), (ids[1], value))
        assert answer.status_code in (400, 422)
        assert "no such class" not in answer.text
    assert send(("no id", truths[0])).status_code == 422
    assert send().status_code == 422
    assert recorded() == {}
    answer = send(*zip(ids, truths, strict=True), (uuid.uuid4().hex, truths[0]))
    assert answer.json() == {"recorded": 3, "repeated": 0, "corrected": 0, "unknown": [3]}
    again = {"recorded": 0, "repeated": 1, "corrected": 0, "unknown": []}
    assert send((ids[0], truths[0])).json() == again


def test_prune_of_the_command_line_leaves_the_audit_log_alone(project: Path) -> None:
    from mlops_loop.release import audit

    old, new = predicted(3), predicted(2)
    engine = open_log(URL)
    with engine.begin() as connection:
        moved = sa.update(PREDICTIONS).where(PREDICTIONS.c.id.in_(new))
        connection.execute(moved.values(time=datetime.now(UTC)))
    log = audit.AuditLog(load_settings())
    log.append("refused", audit.Facts(version="1"))
    result = CliRunner().invoke(APP, ["log", "prune", "--older-than", "1"])
    assert result.exit_code == 0
    assert "3 predictions deleted" in result.output
    with engine.connect() as connection:
        assert sorted(connection.scalars(sa.select(PREDICTIONS.c.id))) == sorted(new)
    assert not set(old) & set(recorded())
    assert log.verify({}) == []
    assert len(log.lines()) == 1
