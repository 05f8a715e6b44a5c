"""The audit log: its chain, its signatures, and lines of an older version."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.cli import operate as serving
from mlops_loop.release import audit
from mlops_loop.release.audit import Facts

URL = "sqlite:///predictions.db"


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_KEY", raising=False)
    return sa.create_engine(URL)


def refuse(*versions: str) -> None:
    for version in versions:
        facts = Facts(version=version, reason="änderung")
        audit.append(audit.open_audit(URL), "flights", "refused", facts)


def problems(**anchors: str) -> list[str]:
    return audit.verify(audit.open_audit(URL), "flights", anchors)


def test_signed_lines_are_verified(log, monkeypatch) -> None:
    refuse("1")  # before there was a key
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    refuse("2", "3")
    signed = [line.signature is not None for line in audit.read(log, "flights")]
    assert signed == [False, True, True]
    assert problems() == []
    monkeypatch.setenv("AUDIT_KEY", "another secret")
    assert problems() == [f"line {number} is not signed with AUDIT_KEY" for number in (2, 3)]


@pytest.mark.parametrize("signature", ["'forged'", "NULL"])
def test_who_writes_to_the_database_cannot_sign(log, monkeypatch, signature) -> None:
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    refuse("1", "2")
    with log.begin() as connection:
        connection.exec_driver_sql(f"UPDATE audit_log SET signature = {signature} WHERE number = 2")
    assert problems() == ["line 2 is not signed with AUDIT_KEY"]
    monkeypatch.delenv("AUDIT_KEY")
    refuse("3")  # on a machine without the key
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    assert problems()[-1] == "line 3 is not signed with AUDIT_KEY"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit_log SET event = 'promoted' WHERE number = 2", "line 2 was changed"),
        ("UPDATE audit_log SET facts = 'no JSON' WHERE number = 3", "line 3 was changed"),
        ("UPDATE audit_log SET number = 7 WHERE number = 3", "line 7 was changed"),
        ("UPDATE audit_log SET by = 'x', sha256 = :digest WHERE number = 2", "line 3 does not"),
        ("DELETE FROM audit_log WHERE number = 2", "line 2 is missing"),
        ("DELETE FROM audit_log WHERE number = 3", "the line about version 3 is missing"),
    ],
)
def test_a_tampered_line_is_found(log, statement, found) -> None:
    refuse("1", "2", "3")
    lines = audit.read(log, "flights")
    assert problems(**{lines[2].sha256: "3"}) == []
    forged = {"digest": replace(lines[1], by="x").digest} if ":" in statement else {}
    with log.begin() as connection:
        connection.execute(sa.text(statement), forged)
    assert problems(**{lines[2].sha256: "3"})[0].startswith(found)


def test_lines_of_an_older_version_are_taken_over_with_their_hashes(log) -> None:
    before = ""
    rows = []
    for number in (1, 2):
        entry = {"model": "flights", "number": number, "time": "2026-01-01T00:00:00+00:00"}
        entry |= {"by": "somebody", "event": "promoted", "version": str(number)}
        entry |= {"reason": "größer", "gates": [{"value": 0.1}], "previous_sha256": before}
        text = json.dumps(entry, ensure_ascii=False)
        before = sha256(text.encode()).hexdigest()
        rows.append(("flights", number, text, before))
    with log.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE audit (model, number INTEGER, line, sha256)")
        connection.exec_driver_sql("INSERT INTO audit VALUES ('flights', 1, 'no JSON', '')")
    with pytest.raises(Refusal, match="line 1 of the audit log was changed"):
        audit.open_audit(URL)
    with log.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
        connection.exec_driver_sql("INSERT INTO audit VALUES (?, ?, ?, ?)", rows)
    assert problems(**{before: "2"}) == []  # the registry's anchor holds
    refuse("3")
    found = audit.read(log, "flights")
    assert [line.facts.version for line in found] == ["1", "2", "3"]
    assert found[2].previous_sha256 == before
    assert problems() == []


def test_who_serves_without_a_champion_hears_why(monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", "nowhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flights")
    with pytest.raises(Failure, match=r"no bundle in nowhere: run `uv run dvc repro`"):
        serving.serve()
    refuse("1")
    with pytest.raises(Failure, match=r"no champion: version 1 was refused: änderung"):
        serving.serve()


def test_a_database_that_cannot_be_used_is_one_line() -> None:
    with pytest.raises(Failure, match="the audit log, see PREDICTION_LOG_URL, cannot be used"):
        audit.open_audit("sqlite:///nowhere/predictions.db")
