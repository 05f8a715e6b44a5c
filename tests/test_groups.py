"""Each dependency group alone: the verbs it is for run with nothing else installed."""

from pathlib import Path

import httpx
import pytest
from conftest import Project, copy, serving

pytestmark = [pytest.mark.slow, pytest.mark.rare]

# Group, and a command for each verb that it is for; another exit code than 0 or 3 is a failure.
VERBS = {
    "train": [
        "flight-delays ingest",
        "flight-delays validate",
        "flight-delays split",
        "flight-delays train",
        "flight-delays evaluate",
        "flight-delays export",
        "flight-delays promote",
        "flight-delays audit",
        "flight-delays card",
        "flight-delays tune --trials 1",
    ],
    "monitor": ["flight-delays monitor", "flight-delays compare"],
    "tracking": ["mlflow --version"],
}


def alone(project: Project, group: str, folder: Path) -> Path:
    """Install a group and nothing else; return the folder of its programs."""
    env = {"UV_PROJECT_ENVIRONMENT": str(folder / "venv")}
    project.run("uv", "sync", "--frozen", "--no-default-groups", "--group", group, env=env)
    return folder / "venv" / "bin"


@pytest.mark.parametrize("group", VERBS)
def test_a_group_alone_runs_its_verbs(pipeline: Project, tmp_path: Path, group: str) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    programs = alone(project, group, tmp_path)
    for command in VERBS[group]:
        program, *arguments = command.split()
        env = {"VIRTUAL_ENV": str(programs.parent)}
        done = project.run(programs / program, *arguments, check=False, timeout=900, env=env)
        assert done.returncode in (0, 3), f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, command


@pytest.mark.parametrize("group", ["serve", "serve-skops"])
def test_a_group_alone_serves(pipeline: Project, tmp_path: Path, group: str) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    programs = alone(project, group, tmp_path)
    bundle = "build/champion"
    if group == "serve-skops":
        bundle = "build/bundle"
        params = project.path / "params.yaml"
        text = params.read_text("utf-8")
        assert "format: onnx" in text
        params.write_text(text.replace("format: onnx", "format: skops"), "utf-8")
        project.run(pipeline.path / ".venv/bin" / project.slug, "export")
        assert (project.path / bundle / "model.skops").is_file()
    with serving(project, str(programs / project.slug), "serve", BUNDLE=bundle) as address:
        assert httpx.get(f"{address}/health/ready", trust_env=False).is_success
