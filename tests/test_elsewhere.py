"""Elsewhere: the registry on a server with PostgreSQL and object storage, or in a moved folder."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from conftest import LEAKS, Project, copy, copy_environment
from servers import free_port, object_store, postgres
from test_evidence import AWS
from test_pipeline import open_gates, tamper

pytestmark = pytest.mark.slow
together = pytest.mark.xdist_group("elsewhere")

PASSWORD = "correct-horse-battery"
LOAD = """
import mlflow
mlflow.set_tracking_uri("sqlite:///.mlflow/mlflow.db")
model = mlflow.pyfunc.load_model("models:/SLUG@champion")
print(type(model.unwrap_python_model()).__name__)
"""


@contextmanager
def mlflow_server(project: Project, folder: Path, database: str, storage: str) -> Iterator[str]:
    """Run the project's MLflow with basic auth, from its `tracking` group; give the address."""
    venv, port = folder / "tracking", free_port()
    project.run(
        *("uv", "sync", "--frozen", "--no-default-groups", "--group", "tracking"),
        env={"UV_PROJECT_ENVIRONMENT": str(venv)},
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    clean |= {
        **AWS,
        "MLFLOW_S3_ENDPOINT_URL": storage,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    clean.pop("AWS_CA_BUNDLE", None)
    command = [
        *(str(venv / "bin/mlflow"), "server", "--app-name", "basic-auth", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", database),
        *("--artifacts-destination", "s3://mlflow/artifacts"),
    ]
    said = folder / "mlflow.log"
    with said.open("w") as log:
        # Its folder is where it keeps the users; its session is what ends with its workers.
        options = {"cwd": folder, "env": clean, "stdout": log, "stderr": log}
        process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        for _ in range(360):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None:
                    break
                time.sleep(0.5)
        else:
            pytest.fail(f"not ready within three minutes\n{said.read_text()}")
        if process.poll() is not None:
            pytest.fail(f"mlflow server: exit {process.returncode}\n{said.read_text()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def elsewhere(
    pipeline: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, dict[str, str], str]]:
    """Give a project, the environment that leads it to a server, and the object store's address."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with postgres() as database, object_store() as storage:
        httpx.put(f"{storage}/mlflow").raise_for_status()
        with mlflow_server(pipeline, folder, database, storage) as address:
            env = {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_USERNAME": "admin"}
            env["MLFLOW_TRACKING_PASSWORD"] = PASSWORD
            yield copy(pipeline, folder), env, storage


@together
def test_the_verbs_work_against_a_server(
    elsewhere: tuple[Project, dict[str, str], str],
) -> None:
    project, env, storage = elsewhere
    open_gates(project)
    wrong = {**env, "MLFLOW_TRACKING_PASSWORD": "hunter2"}
    refused = project.uv(project.slug, "promote", env=wrong, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        f"error: MLflow at {env['MLFLOW_TRACKING_URI']}"
    )
    assert "Traceback" not in refused.stderr
    assert "hunter2" not in refused.stderr
    examined = project.uv(project.slug, "doctor", env=wrong, check=False)
    assert examined.returncode == 3
    assert "no     MLflow" in examined.stdout

    assert "version 1 is the new champion" in project.uv(project.slug, "promote", env=env).stdout
    shutil.rmtree(project.path / "build/champion")  # what is served comes from the object store
    assert "champion already" in project.uv(project.slug, "promote", env=env).stdout
    promotion = json.loads((project.path / "build/champion/promotion.json").read_text("utf-8"))
    assert promotion["version"] == "1"
    examined = project.uv(project.slug, "doctor", env=env, check=False)
    assert "ok     MLflow" in examined.stdout
    assert "ok     champion        version 1" in examined.stdout
    assert not (project.path / ".mlflow").exists()  # nothing is kept here
    assert "bundle.json" in httpx.get(f"{storage}/mlflow").text


# One test of each way in which a champion changes; all of them take a quarter of an hour.
MOVES = "crowned", "roll_back_there", "moved_by_hand", "traced_to"


@together
@pytest.mark.rare
def test_champions_move_on_a_server_too(
    elsewhere: tuple[Project, dict[str, str], str],
) -> None:
    project, env, _ = elsewhere
    project.run("git", "restore", "params.yaml")
    folder = "packages/mlops-loop/tests"
    tests = f"{folder}/test_promote.py", f"{folder}/test_trace.py", "-k", " or ".join(MOVES)
    project.uv("pytest", "-q", *tests, env=env, timeout=1200)
    auth = ("admin", PASSWORD)
    address = f"{env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/search"
    assert httpx.get(address).status_code == 401
    models = httpx.get(address, auth=auth).json()["registered_models"]
    assert len([model for model in models if model["name"].startswith("test-")]) >= 2


def test_a_registry_moves_with_its_folder(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path / "before")
    open_gates(project)
    project.uv(project.slug, "promote")
    moved = replace(project, path=tmp_path / "after" / "another name")
    moved.path.parent.mkdir()
    project.path.rename(moved.path)
    shutil.rmtree(moved.path / ".venv")  # holds its own path, as any environment does
    copy_environment(pipeline, moved)
    shutil.rmtree(moved.path / "build/champion")
    assert "champion already" in moved.uv(moved.slug, "promote").stdout
    assert (moved.path / "build/champion/bundle.json").is_file()
    loaded = moved.uv("python", "-c", LOAD.replace("SLUG", moved.slug)).stdout
    assert loaded.split()[-1] == "ContractModel"
    tamper(moved)
    assert "version 2 is the new champion" in moved.uv(moved.slug, "promote").stdout
    assert "version 1 is champion again" in moved.uv(moved.slug, "rollback").stdout
    assert not project.path.exists()  # nothing was written where it had been
