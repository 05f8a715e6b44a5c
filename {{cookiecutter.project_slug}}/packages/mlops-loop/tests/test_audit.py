"""The audit log: its chain and its signatures."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.cli import operate as serving
from mlops_loop.release.audit import AuditLog, Facts, Line

KEY = "a long secret"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flights")
    monkeypatch.delenv("AUDIT_KEY", raising=False)


def refuse(*versions: str) -> Sequence[Line]:
    log = AuditLog(load_settings())
    for version in versions:
        log.append("refused", Facts(version=version, reason="änderung"))
    return log.lines()


def tamper(statement: str, **values: str) -> None:
    with AuditLog(load_settings()).engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def problems(**anchors: str) -> list[str]:
    return AuditLog(load_settings()).verify(anchors)


def test_signed_lines_are_verified(monkeypatch) -> None:
    refuse("1")  # before there was a key
    monkeypatch.setenv("AUDIT_KEY", KEY)
    assert [line.signature is not None for line in refuse("2", "3")] == [False, True, True]
    assert problems() == []
    monkeypatch.setenv("AUDIT_KEY", "another secret")
    assert problems() == [f"line {number} is not signed with AUDIT_KEY" for number in (2, 3)]


@pytest.mark.parametrize("signature", ["'forged'", "NULL"])
def test_who_writes_to_the_database_cannot_sign(monkeypatch, signature) -> None:
    monkeypatch.setenv("AUDIT_KEY", KEY)
    refuse("1", "2")
    tamper(f"UPDATE audit_log SET signature = {signature} WHERE number = 2")
    assert problems() == ["line 2 is not signed with AUDIT_KEY"]
    monkeypatch.delenv("AUDIT_KEY")
    refuse("3")  # on a machine without the key
    monkeypatch.setenv("AUDIT_KEY", KEY)
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
def test_a_tampered_line_is_found(statement, found) -> None:
    lines = refuse("1", "2", "3")
    anchor = {lines[2].sha256: "3"}
    assert problems(**anchor) == []
    lines[1].by = "x"
    tamper(statement, **({"digest": lines[1].digest} if ":digest" in statement else {}))
    assert problems(**anchor)[0].startswith(found)


def test_who_serves_without_a_champion_hears_why(monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", "nowhere")
    with pytest.raises(Failure, match=r"no bundle in nowhere: run `uv run dvc repro`"):
        serving.serve()
    refuse("1")
    with pytest.raises(Failure, match=r"no champion: version 1 was refused: änderung"):
        serving.serve()


def test_a_database_that_cannot_be_used_is_one_line(monkeypatch) -> None:
    monkeypatch.setenv("PREDICTION_LOG_URL", "sqlite:///nowhere/predictions.db")
    with pytest.raises(Failure, match="the audit log, see PREDICTION_LOG_URL, cannot be used"):
        AuditLog(load_settings())
