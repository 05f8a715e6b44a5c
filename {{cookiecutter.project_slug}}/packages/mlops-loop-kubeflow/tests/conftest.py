"""A small project with a DVC pipeline of shell commands, and a remote that is a folder."""

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlops_loop.base.project import Project, use

STAGES = {
    "report": {
        "cmd": "cat data/copy.txt count.json > page.html",
        "deps": ["data/copy.txt", "count.json"],
        "outs": ["page.html"],
        "params": ["report.title"],
    },
    "copy": {
        "cmd": "mkdir -p data && cp words.txt data/copy.txt",
        "deps": ["words.txt"],
        "params": ["copy", "limits.small"],
        "outs": ["data"],
    },
    "count": {
        "cmd": 'echo \'{"words": {"n": 3}, "name": "x"}\' > count.json; cp words.txt seen.txt',
        "deps": ["data"],
        "outs": [{"seen.txt": {"cache": False, "persist": True}}],
        "metrics": [{"count.json": {"cache": False}}],
    },
}
PARAMS = "copy: {how: plain}\nreport: {title: A title}\nlimits: {small: 1.0e-5}\nother: 1\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the project, with the copy of it that an image holds, and go there."""
    use(Project(name="small", model=""))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_REMOTE", raising=False)
    Repo.init(no_scm=True).close()
    set_remote(str(tmp_path / "remote"))
    Path("words.txt").write_text("one two three\n")
    Path("params.yaml").write_text(PARAMS)
    write_stages(STAGES)
    return folder


def set_remote(url: str) -> None:
    core = "[core]\n    no_scm = true\n    remote = storage\n"
    Path(".dvc/config").write_text(f"{core}['remote \"storage\"']\n    url = {url}\n")


def write_stages(stages: object) -> None:
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
