"""The pipeline run: how stages report their end, and which changes of code count."""

import os

import pytest

from mlops_loop.base import files, stage_status
from mlops_loop.base.code_hash import without_comments
from mlops_loop.base.stage_status import read_statuses, reported

from .conftest import ROOT


@pytest.mark.parametrize(
    ("ends", "code"), [(SystemExit(0), 0), (SystemExit(3), 3), (ValueError("a crash"), 1)]
)
def test_a_stage_reports_how_it_ends_and_a_crash_is_no_refusal(
    ends, code, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "stages.jsonl"
    monkeypatch.setenv(stage_status.VARIABLE, str(path))
    with pytest.raises(type(ends)), reported("train"):
        raise ends
    (status,) = read_statuses(path)
    assert (status.stage, status.code) == ("train", code)
    assert stage_status.VARIABLE not in os.environ  # so that no process it starts reports


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
    assert without_comments('b = "# no comment"  # one\n') == 'b = "# no comment"'


def test_a_checkout_with_crlf_is_the_same_contract(tmp_path) -> None:
    digests = set()
    for newline in ("\n", "\r\n"):
        (tmp_path / "schema.yaml").write_text("a: 1\nb: 2\n", newline=newline)
        digests.add(files.sha256(tmp_path / "schema.yaml"))
    assert len(digests) == 1
    assert (ROOT / ".gitattributes").read_text().split() == ["*", "text=auto", "eol=lf"]
