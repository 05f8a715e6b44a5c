"""Evidence: data through a DVC remote, the same bytes elsewhere, versions that are built again."""

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LEAKS, Project, copy, execute
from servers import object_store
from test_pipeline import edit, open_gates, sha256, tamper

pytestmark = pytest.mark.slow
together = pytest.mark.xdist_group("registered")

AWS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}


def commit(project: Project) -> None:
    project.run("git", "add", "--all")
    identity = "-c", "user.name=Tester", "-c", "user.email=tester@example.com"
    project.run("git", *identity, "commit", "--quiet", "--no-verify", "-m", "work")


def examine(project: Project, programs: Path, env: dict[str, str]) -> str:
    return project.run(programs / project.slug, "doctor", env=env, check=False).stdout


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_data_comes_back_from_the_remote(pipeline: Project, tmp_path: Path, kind: str) -> None:
    project, env = copy(pipeline, tmp_path), dict[str, str]()
    programs = pipeline.path / ".venv/bin"  # code is not run, so this environment will do
    commit(project)
    before = sha256(project.path / "build/bundle/bundle.json")
    with ExitStack() as until_the_end:
        if kind == "s3":
            env = AWS | {"AWS_ENDPOINT_URL": until_the_end.enter_context(object_store())}
            httpx.put(f"{env['AWS_ENDPOINT_URL']}/data").raise_for_status()
            url = "s3://data/flights"
            project.run(programs / "dvc", "remote", "add", "--default", "s3", url)
        project.run(programs / "dvc", "push", env=env)
        assert (project.path / ".dvc-remote").exists() == (kind == "local")
        # All that git does not hold is gone: data, model, bundle, reports and DVC's cache.
        project.run("git", "clean", "-fdx", "--quiet", "--exclude=.dvc-remote")
        assert not (project.path / "build").exists()
        assert not (project.path / ".dvc/cache").exists()
        project.run(programs / "dvc", "pull", env=env)
        said = project.run(programs / "dvc", "repro", env=env).stdout
        if kind == "s3":
            assert "ok     DVC remote      s3: writable" in examine(project, programs, env)
    assert "Running stage" not in said
    assert "up to date" in said
    assert sha256(project.path / "build/bundle/bundle.json") == before
    if kind == "s3":
        assert "no     DVC remote      " in examine(project, programs, env)


@pytest.fixture(scope="module")
def registered(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with version 1 of a commit, 2 of the same but tampered with, and 3 of none.

    It is built of three months, as it is to be built again several times.
    """
    project = copy(pipeline, tmp_path_factory.mktemp("registered"))
    (project.path / "reports/data/accepted.json").unlink()  # what a year looked like
    edit(project, "ingest", end="2013-04-01")
    edit(project, "split", train_end="2013-03-01", validation_end="2013-03-11")
    open_gates(project)
    project.uv("dvc", "repro")
    commit(project)
    project.uv(project.slug, "promote")
    project.uv("dvc", "push")
    tamper(project)
    project.uv(project.slug, "promote")
    (project.path / "README.md").write_text("changed", "utf-8")
    tamper(project)
    project.uv(project.slug, "promote")
    project.run("git", "checkout", "README.md")
    return project


def reproduce(project: Project, version: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the verb with one thread; `folder` is for what is temporary: nothing stays there."""
    folder.mkdir()
    env = {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = project.uv(project.slug, "reproduce", version, check=False, env=env)
    assert not list(folder.glob("reproduce-*"))  # uv leaves locks
    return done


@together
def test_a_second_clone_gives_the_same_bytes(registered: Project, tmp_path: Path) -> None:
    clone = replace(registered, path=tmp_path / "second clone")
    execute("git", "clone", "--quiet", registered.path, clone.path, cwd=tmp_path)
    # The first has the hash of each output.
    paths = clone.path / "dvc.lock", clone.path / "reports/metrics.json"
    before = [path.read_text("utf-8") for path in paths]
    env = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    said = clone.uv("dvc", "repro", "--force", "--no-run-cache", env=env).stdout
    assert "Running stage 'export'" in said
    assert [path.read_text("utf-8") for path in paths] == before


@together
@pytest.mark.rare  # the tutorial does the like
def test_a_version_is_built_again(registered: Project, tmp_path: Path) -> None:
    before = registered.run("git", "status", "--porcelain").stdout
    done = reproduce(registered, "1", tmp_path / "tmp")
    assert done.returncode == 0, done.stderr
    assert "byte for byte" in done.stdout.splitlines()[-1]
    assert "model.onnx" in done.stdout.splitlines()[-1]
    assert "Running stage 'ingest'" not in done.stdout  # the remote has what it read
    assert registered.run("git", "status", "--porcelain").stdout == before


@together
@pytest.mark.rare
def test_a_version_that_its_commit_does_not_give_is_found(
    registered: Project, tmp_path: Path
) -> None:
    data = registered.path / ".dvc-remote", registered.path / ".dvc/cache"
    for path in data:  # so it must read the source again, and say so
        path.rename(tmp_path / path.name)
    try:
        done = reproduce(registered, "2", tmp_path / "tmp")
    finally:
        for path in data:
            shutil.rmtree(path, ignore_errors=True)
            (tmp_path / path.name).rename(path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].endswith("files.card.md differ")
    assert "neither cache nor DVC remote gives data/raw.parquet" in done.stdout
    assert "Running stage 'ingest'" in done.stdout


@together
def test_what_cannot_be_built_again_is_said_in_one_line(
    registered: Project, tmp_path: Path
) -> None:
    for version, why in (("3", "changes that no commit holds"), ("99", "has no version 99")):
        done = reproduce(registered, version, tmp_path / version)
        assert done.returncode == 1
        assert why in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@together
def test_an_interrupted_rebuild_leaves_nothing_behind(registered: Project, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    options: dict[str, Any] = {"cwd": registered.path, "text": True, "stdout": subprocess.PIPE}
    command = registered.path / ".venv/bin" / registered.slug, "reproduce", "1"
    options["env"] = clean | {"TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **options) as process:
        for line in process.stdout or ():
            if line.startswith("Running stage"):
                process.send_signal(signal.SIGINT)  # Ctrl-C
        # Its output has ended, so nothing that it had started is left either.
        assert process.wait(timeout=60) not in (0, 3)
    assert not list((tmp_path / "tmp").glob("reproduce-*"))
