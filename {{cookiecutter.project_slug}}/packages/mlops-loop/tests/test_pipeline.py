"""The pipeline run: how stages report their end, and which changes of code count."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mlops_loop.base import files, stage_status
from mlops_loop.base.code_hash import source_hash
from mlops_loop.base.stage_status import read_statuses, reported

from .conftest import ROOT

ENDS = [(SystemExit(0), 0), (SystemExit(1), 1), (SystemExit(3), 3), (ValueError("a crash"), 1)]


@pytest.mark.parametrize(("end", "code"), ENDS)
def test_a_stage_reports_how_it_ends(tmp_path, monkeypatch, end, code) -> None:
    monkeypatch.setenv(stage_status.VARIABLE, str(tmp_path / "stages.jsonl"))
    with pytest.raises(type(end)), reported("train"):
        raise end
    (status,) = read_statuses(tmp_path / "stages.jsonl")
    assert (status.stage, status.code) == ("train", code)
    with suppress(SystemExit), reported("train"):  # as a process that it starts
        sys.exit(0)
    assert len(read_statuses(tmp_path / "stages.jsonl")) == 1
    assert stage_status.VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("a = 1  # why\n", True),
        ('"""What it is for."""\n# a comment\n\na = 1\r\n', True),
        ("a = 2\n", False),
        ('a = 1\nb = "# no comment"\n', False),
        ("if a:\n    a = 1\n", False),
    ],
)
def test_comments_blank_lines_and_line_endings_are_no_change(tmp_path, source, same) -> None:
    for name, text in {"a.py": "a = 1\n", "b.py": source}.items():
        Path(tmp_path / name).write_bytes(text.encode())
    assert (source_hash(tmp_path / "a.py") == source_hash(tmp_path / "b.py")) == same


def test_a_checkout_with_crlf_is_the_same_contract(tmp_path) -> None:
    digests = set()
    for newline in ("\n", "\r\n"):
        (tmp_path / "schema.yaml").write_text("a: 1\nb: 2\n", newline=newline)
        digests.add(files.sha256(tmp_path / "schema.yaml"))
    assert len(digests) == 1
    assert (ROOT / ".gitattributes").read_text().split() == ["*", "text=auto", "eol=lf"]
