"""What CI of a project runs, and the tests of the loop: once, in the workspace of a project."""

import re
from pathlib import Path

import pytest
from conftest import Project, copy
from tools import ACT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("package")]
PACKAGE = "packages/mlops-loop"
SECONDS = 2400


def test_linters_pass(pipeline: Project) -> None:
    pipeline.uv("ruff", "check", "--no-cache", ".")
    pipeline.uv("ruff", "format", "--no-cache", "--check", ".")
    pipeline.uv("mypy")
    pipeline.run("uv", "lock", "--check")
    pipeline.uv("pre-commit", "run", "--all-files")


def test_the_rooms_of_the_package_and_its_types(pipeline: Project) -> None:
    pipeline.uv("mypy", "--config-file", f"{PACKAGE}/pyproject.toml")
    pipeline.uv("lint-imports", "--no-cache", "--config", f"{PACKAGE}/pyproject.toml")


def test_a_room_that_imports_from_one_above_is_found(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path)
    module = project.path / PACKAGE / "src/mlops_loop/contract/schema.py"
    module.write_text(module.read_text("utf-8") + "\nimport mlops_loop.training.train\n", "utf-8")
    program = pipeline.path / ".venv/bin/lint-imports"
    env = {"PYTHONPATH": str(project.path / PACKAGE / "src")}
    options = ("--no-cache", "--config", f"{PACKAGE}/pyproject.toml")
    done = project.run(program, *options, env=env, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mlops_loop.contract.schema -> mlops_loop.training.train" in done.stdout


@pytest.mark.skipif(ACT, reason="act runs them")
def test_the_project_s_tests_pass_as_in_its_ci(pipeline: Project, tmp_path: Path) -> None:
    """With the Python of its CI, if that is here: before 3.12, measuring coverage takes long."""
    action = (pipeline.path / ".github/actions/setup/action.yml").read_text("utf-8")
    (version,) = re.findall(r'python-version: "(.*?)"', action)
    env = {"UV_PYTHON": version, "PYENV_VERSION": version, "UV_PYTHON_DOWNLOADS": "never"}
    if pipeline.run("uv", "python", "find", check=False, env=env).returncode:
        env = {}
    env |= {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"), "COVERAGE_CORE": "sysmon"}
    print(pipeline.uv("pytest", "-n", "auto", "--cov", timeout=900, env=env).stdout)


def test_the_package_s_tests_pass(pipeline: Project) -> None:
    """All of them, on this machine alone: with xdist they take their own share of its cores."""
    options = ("-n", "2", "-p", "no:cacheprovider", "--durations=40")
    done = pipeline.uv("pytest", *options, f"{PACKAGE}/tests", timeout=SECONDS, check=False)
    print(done.stdout[-5000:])
    assert done.returncode == 0, done.stdout[-20000:]
