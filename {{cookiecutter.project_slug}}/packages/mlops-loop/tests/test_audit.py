"""The audit log: its chain, its signatures, and lines of an older version."""

import json
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_KEY", raising=False)
    return tmp_path


@pytest.fixture
def log() -> sa.Engine:
    return audit.open_audit(URL)


def refuse(log: sa.Engine, *versions: str) -> None:
    for version in versions:
        audit.append(log, "flights", "refused", Facts(version=version, reason="änderung"))


def problems(log: sa.Engine) -> list[str]:
    return audit.verify(log, "flights", {})


def test_signed_lines_are_verified(log, monkeypatch) -> None:
    refuse(log, "1")  # before there was a key
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    refuse(log, "2", "3")
    signed = [line.signature is not None for line in audit.read(log, "flights")]
    assert signed == [False, True, True]
    assert problems(log) == []
    monkeypatch.setenv("AUDIT_KEY", "another secret")
    assert problems(log) == [f"line {number} is not signed with AUDIT_KEY" for number in (2, 3)]


@pytest.mark.parametrize("signature", ["'forged'", "NULL"])
def test_who_writes_to_the_database_cannot_sign(log, monkeypatch, signature) -> None:
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    refuse(log, "1", "2")
    statement = f"UPDATE audit_log SET signature = {signature} WHERE number = 2"
    with log.begin() as connection:
        connection.exec_driver_sql(statement)
    assert problems(log) == ["line 2 is not signed with AUDIT_KEY"]
    monkeypatch.delenv("AUDIT_KEY")
    refuse(log, "3")  # on a machine without the key
    monkeypatch.setenv("AUDIT_KEY", "a long secret")
    assert problems(log)[-1] == "line 3 is not signed with AUDIT_KEY"


def test_lines_of_an_older_version_are_taken_over_with_their_hashes(folder) -> None:
    engine = sa.create_engine(URL)
    before = ""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE audit (model TEXT, number INTEGER, line TEXT, sha256 TEXT)"
        )
        for number in (1, 2):
            entry = {"model": "flights", "number": number, "time": "2026-01-01T00:00:00+00:00"}
            entry |= {"by": "somebody", "event": "promoted", "version": str(number)}
            entry |= {"reason": "größer", "gates": [{"value": 0.1}], "previous_sha256": before}
            text = json.dumps(entry, ensure_ascii=False)
            before = sha256(text.encode()).hexdigest()
            row = ("flights", number, text, before)
            connection.exec_driver_sql("INSERT INTO audit VALUES (?, ?, ?, ?)", row)
    log = audit.open_audit(URL)
    assert problems(log) == []
    assert audit.verify(log, "flights", {before: "2"}) == []  # the registry's anchor holds
    refuse(log, "3")
    found = list(audit.read(log, "flights"))
    assert [line.facts.version for line in found] == ["1", "2", "3"]
    assert found[2].previous_sha256 == before
    assert problems(audit.open_audit(URL)) == []


def test_an_older_version_s_line_that_was_changed_is_found(folder) -> None:
    engine = sa.create_engine(URL)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE audit (model TEXT, number INTEGER, line TEXT, sha256 TEXT)"
        )
        connection.exec_driver_sql("INSERT INTO audit VALUES ('flights', 1, 'no JSON', '')")
    with pytest.raises(Refusal, match="line 1 of the audit log was changed"):
        audit.open_audit(URL)


def test_who_serves_without_a_champion_hears_why(log, monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", "nowhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flights")
    with pytest.raises(Failure, match=r"no bundle in nowhere: run `uv run dvc repro`"):
        serving.serve()
    refuse(log, "1")
    with pytest.raises(Failure, match=r"no champion: version 1 was refused: änderung"):
        serving.serve()


def test_a_database_that_cannot_be_used_is_one_line(folder) -> None:
    with pytest.raises(Failure, match="the audit log, see PREDICTION_LOG_URL, cannot be used"):
        audit.open_audit("sqlite:///nowhere/predictions.db")
