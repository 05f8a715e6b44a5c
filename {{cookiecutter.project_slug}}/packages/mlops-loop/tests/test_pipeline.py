"""The pipeline run: how stages report their end, and which changes of code count."""

import os

import pytest

from mlops_loop.base import files, pipeline
from mlops_loop.base.code_hash import source_hash
from mlops_loop.base.pipeline import read_statuses, reported

from .conftest import ROOT

ENDS = [(SystemExit(0), 0), (SystemExit(1), 1), (SystemExit(3), 3), (ValueError("a crash"), 1)]


@pytest.mark.parametrize(("end", "code"), ENDS)
def test_a_stage_reports_how_it_ends(tmp_path, monkeypatch, end, code) -> None:
    monkeypatch.setenv(pipeline.VARIABLE, str(tmp_path / "stages.jsonl"))
    with pytest.raises(type(end)), reported("train"):
        raise end
    (status,) = read_statuses(tmp_path / "stages.jsonl")
    assert (status.stage, status.code) == ("train", code)
    assert pipeline.VARIABLE not in os.environ  # nor for a process that it starts


SOURCES = {
    "a = 1  # why\n": True,
    '"""What it is for."""\n# a comment\n\na = 1\r\n': True,
    "a = 2\n": False,
    'a = 1\nb = "# no comment"\n': False,
    "if a:\n    a = 1\n": False,
}


@pytest.mark.parametrize(("source", "same"), SOURCES.items())
def test_comments_blank_lines_and_line_endings_are_no_change(tmp_path, source, same) -> None:
    (tmp_path / "a.py").write_bytes(b"a = 1\n")
    (tmp_path / "b.py").write_bytes(source.encode())
    assert (source_hash(tmp_path / "a.py") == source_hash(tmp_path / "b.py")) == same


def test_a_checkout_with_crlf_is_the_same_contract(tmp_path) -> None:
    digests = set()
    for newline in ("\n", "\r\n"):
        (tmp_path / "schema.yaml").write_text("a: 1\nb: 2\n", newline=newline)
        digests.add(files.sha256(tmp_path / "schema.yaml"))
    assert len(digests) == 1
    assert (ROOT / ".gitattributes").read_text().split() == ["*", "text=auto", "eol=lf"]
