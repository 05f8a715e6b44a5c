"""The loop as a wheel from an index, with packages/ gone, as the project's README says."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import Bake, Project, serving

pytestmark = [pytest.mark.slow, pytest.mark.rare]

INDEX = """[[tool.uv.index]]
name = "house"
url = "wheels"
format = "flat"
explicit = true

[tool.uv]
"""


def pin(project: Project, wheel: Path) -> None:
    """Replace packages/ by the wheel: the steps of the README, with a folder for an index."""
    (project.path / "wheels").mkdir()
    shutil.copy(wheel, project.path / "wheels")
    project.run("git", "rm", "-r", "--quiet", "packages")
    shutil.rmtree(project.path / "packages", ignore_errors=True)
    dvc, pyproject = project.path / "dvc.yaml", project.path / "pyproject.toml"
    lines = dvc.read_text("utf-8").splitlines(keepends=True)
    dvc.write_text("".join(line for line in lines if "packages/mlops-loop/" not in line), "utf-8")
    text = pyproject.read_text("utf-8")
    for old, new in (
        ('dependencies = ["mlops-loop"]', 'dependencies = ["mlops-loop==1.0.0"]'),
        ('[tool.uv.workspace]\nmembers = ["packages/*"]\n\n', ""),
        ("mlops-loop = { workspace = true }", 'mlops-loop = { index = "house" }'),
        ("[tool.uv]\n", INDEX),
    ):
        assert old in text
        text = text.replace(old, new)
    pyproject.write_text(text, "utf-8")


@pytest.fixture(scope="module")
def pinned(bake: Bake) -> Project:
    """A project whose loop comes from a wheel, trained and promoted."""
    project = bake()
    project.run("uv", "build", "--quiet", "--wheel", "--out-dir", "dist", "packages/mlops-loop")
    (wheel,) = (project.path / "dist").glob("*.whl")
    pin(project, wheel)
    project.run("uv", "lock")
    project.run("uv", "sync")
    project.uv("dvc", "repro", timeout=1200)
    project.uv(project.slug, "promote")
    return project


def test_everything_runs_from_the_wheel(pinned: Project) -> None:
    where = pinned.uv("python", "-c", "import mlops_loop; print(mlops_loop.__file__)").stdout
    assert "site-packages" in where
    root = Path(where.strip()).parent
    assert (root / "py.typed").is_file()
    assert (root / "reporting/templates/base.html").is_file()
    assert (root / "reporting/templates/style.css").is_file()
    assert list(root.rglob("*.js"))
    assert list((root / "onboarding/infer/blank").glob("*.txt"))
    assert json.loads(pinned.uv("dvc", "status", "--json").stdout) == {}
    pinned.uv("mypy")
    pinned.uv("lint-imports")
    pinned.uv("pytest", "-n", "2", timeout=1200)


def test_it_serves(pinned: Project) -> None:
    with serving(pinned, "uv", "run", pinned.slug, "serve") as address:
        for path in ("/health/ready", "/"):
            assert httpx.get(address + path, trust_env=False).is_success, path


def test_another_version_starts_every_stage(pinned: Project) -> None:
    path = pinned.path / "pyproject.toml"
    text = path.read_text("utf-8")
    path.write_text(text.replace("mlops-loop==1.0.0", "mlops-loop==1.0.1"), "utf-8")
    dvc = pinned.path / ".venv/bin/dvc"  # uv would look for that version
    status = json.loads(pinned.run(dvc, "status", "--json").stdout)
    path.write_text(text, "utf-8")
    stages = yaml.safe_load((pinned.path / "dvc.yaml").read_text("utf-8"))["stages"]
    assert set(status) == set(stages)


def test_the_code_of_a_bundle_holds_the_version(pinned: Project) -> None:
    manifest = (pinned.path / "build/bundle/bundle.json").read_text("utf-8")
    assert "mlops-loop" in json.loads(manifest)["code_sha256"]
    assert not re.search("packages/", manifest)
