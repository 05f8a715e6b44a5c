"""The pipeline run: how stages report their end, and which changes of code count."""

import os
import sys
from pathlib import Path

import pytest

from mlops_loop.base import files, stage_status
from mlops_loop.base.code_hash import without_comments
from mlops_loop.base.stage_status import read_statuses, reported

from .conftest import ROOT


@pytest.fixture
def status_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(stage_status.VARIABLE, str(tmp_path / "stages.jsonl"))
    return tmp_path / "stages.jsonl"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_stage_reports_how_it_ends(status_file, code) -> None:
    with pytest.raises(SystemExit), reported("train"):
        sys.exit(code)
    (status,) = read_statuses(status_file)
    assert (status.stage, status.code) == ("train", code)
    assert stage_status.VARIABLE not in os.environ  # so that no process it starts reports


def test_a_crash_is_no_refusal(status_file) -> None:
    with pytest.raises(ValueError, match="crash"), reported("train"):
        raise ValueError("crash")
    assert [status.code for status in read_statuses(status_file)] == [1]


def test_without_a_pipeline_run_nothing_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(stage_status.VARIABLE, raising=False)
    with reported("train"):
        pass
    assert read_statuses(tmp_path / "stages.jsonl") == []


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("a = 1  # why\n", True),
        ("# a comment\n\na = 1\r\n", True),
        ("a = 2\n", False),
        ('a = 1\nb = "# no comment"\n', False),
        ("if a:\n    a = 1\n", False),
    ],
)
def test_comments_blank_lines_and_line_endings_are_no_change(source, same) -> None:
    assert (without_comments(source) == without_comments("a = 1\n")) == same


def test_a_checkout_with_crlf_is_the_same_contract(tmp_path) -> None:
    digests = set()
    for newline in ("\n", "\r\n"):
        (tmp_path / "schema.yaml").write_text("a: 1\nb: 2\n", newline=newline)
        digests.add(files.sha256(tmp_path / "schema.yaml"))
    assert len(digests) == 1
    assert (ROOT / ".gitattributes").read_text().split() == ["*", "text=auto", "eol=lf"]


def test_a_text_that_looks_like_a_comment_stays() -> None:
    assert without_comments('b = "# no comment"  # one\n') == 'b = "# no comment"'
