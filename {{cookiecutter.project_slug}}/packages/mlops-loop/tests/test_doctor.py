import os
import shutil
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.pipeline import user_name
from mlops_loop.base.settings import load_settings
from mlops_loop.onboarding import doctor as examination
from mlops_loop.onboarding.doctor import CHECKS, Check, ask, doctor
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.release.promote import promote
from mlops_loop.tracking.session import session

from .conftest import ROOT, change, edit

SERVED = Path("build/champion")
# Gates that other tests are about, and that take time.
SLOW = dict.fromkeys(("server", "latency", "behaviour", "slices", "calibration"))
IDENTITY = {"user.name": "x", "user.email": "x@example.com"}


@pytest.fixture
def whole(project, monkeypatch) -> Path:
    """A project in which all that the doctor looks for is in order, but nothing promoted yet."""
    for name in ("pyproject.toml", "uv.lock", ".dvc/config"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    (project / "packages").symlink_to(ROOT / "packages")  # a member of the workspace
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(IDENTITY)))
    for number, (key, value) in enumerate(IDENTITY.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    git("init", "add params.yaml", "commit -m first")
    monkeypatch.setenv("BUNDLE", str(SERVED))
    change(files.PARAMS, "gates", **SLOW)
    return project


def git(*commands: str) -> None:
    for command in commands:
        subprocess.run(["git", *command.split()], check=True, capture_output=True)


def found(name: str, **otherwise: Callable[[], str]) -> str:
    (check,) = (check for check in CHECKS if check.name == name)
    return ": ".join(ask(check._replace(**otherwise)))


def test_all_is_in_order_before_and_after_the_first_promotion(whole, capsys) -> None:
    doctor()
    said = capsys.readouterr().out
    assert "later  champion        there is none: `uv run dvc repro`, then" in said
    assert said.splitlines()[-1].startswith("everything is in order")
    assert {line.split()[0] for line in said.splitlines()[:-1]} <= {"ok", "later", "note"}
    promote()
    assert found("champion").startswith("ok: version 1")
    assert list((whole / ".dvc-remote").iterdir()) == []  # it leaves nothing behind
    with open_log(load_settings().prediction_log_url).begin() as connection:
        connection.exec_driver_sql("UPDATE audit_log SET event = 'refused'")
    assert found("audit log").startswith("no: line 1 was changed")
    edit(SERVED / "promotion.json", '"version": "1"', '"version": "7"')
    assert "holds version 7, the champion is 1" in found("champion")
    shutil.rmtree(SERVED)
    assert found("champion").startswith("no: there is no bundle")


def test_every_check_is_made_whatever_the_others_found(whole, monkeypatch, capsys) -> None:
    edit(whole / "pyproject.toml", "requires-python", 'dynamic = ["version"]\nrequires-python')
    shutil.rmtree(whole / ".git")
    (whole / "a file").touch()
    edit(whole / ".dvc/config", "../.dvc-remote", "../a file")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:hunter2@127.0.0.1:9")
    monkeypatch.setenv("PREDICTION_LOG_URL", "postgresql+psycopg://someone:hunter2@127.0.0.1:9/x")
    monkeypatch.setattr(examination, "GIBIBYTES", 1_000_000)
    with pytest.raises(Refusal, match="commit, repository, lock file, MLflow, DVC remote"):
        doctor()
    said = capsys.readouterr().out
    assert not {"hunter2", "Traceback"} & set(said.replace(":", " ").split())
    assert len(said.splitlines()) == len(CHECKS)
    fine = {line[7:21].strip() for line in said.splitlines() if not line.startswith("no ")}
    assert fine == {"git", "git identity", "data files", "user", "command"}


def test_what_is_missing_is_said_with_the_mend(whole, monkeypatch) -> None:
    monkeypatch.setattr(examination, "SECONDS", 0.1)
    assert ask(Check("slow", lambda: str(Event().wait(5))))[1].startswith("no answer for 0.1 sec")
    monkeypatch.setattr(examination, "SECONDS", 60)
    Path("table.csv").write_text("x\n" * 1_000_000)
    git("add table.csv", "commit -m second")
    assert found("data files").startswith("no: table.csv is in git: git rm --cached")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(whole / "none"))
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    assert found("git identity").startswith("no: `git config user.name` finds nothing: git config")
    monkeypatch.setenv("PATH", str(whole))
    (whole / ".dvc/config").write_text("")
    assert found("git") == "no: git is not installed"
    assert "uv run dvc remote add --default" in found("DVC remote")


def test_what_uv_says_of_the_lock_file_is_passed_on(whole, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", "/proc/nowhere")
        assert "no: error: Failed to initialize cache" in found("lock file")
    edit(whole / "pyproject.toml", 'dependencies = ["mlops-loop"]', "dependencies = []")
    assert "needs to be updated" in found("lock file")
    Path("uv.lock").unlink()
    assert "no: error: Unable to find lockfile" in found("lock file")


def test_what_works_at_the_root_of_a_repository_only_is_said(whole, monkeypatch) -> None:
    assert found("repository").startswith("ok")
    folder = whole / "services" / "flights"
    (folder / ".github").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert found("repository").startswith("note: .github do not run in a folder of a repository")
    assert "working-directory: services/flights" in found("repository")


def test_what_dvc_needs_of_the_person_is_said(whole, monkeypatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert user_name().startswith("uid-")
    assert found("user", ask=nameless).startswith("no: KeyError: 'getpwuid")
    assert found("user", ask=nameless).endswith("set USER to any name")
    monkeypatch.setenv("PATH", os.defpath)
    assert found("command").startswith("note: PATH finds none")
    assert found("command").endswith("start dvc by `uv run dvc`")


class Stranger(BaseHTTPRequestHandler):
    """Answers /version as it is told to, and everything else with an error page."""

    version = ""

    def do_GET(self) -> None:
        known = self.path == "/version" and self.version
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write((self.version if known else "<!doctype html> not here").encode())

    def log_message(self, *_: object) -> None:
        pass


SERVERS = [("2.19.0", "server 2.19.0, needed 3.x"), ("", "no MLflow server answers there")]


@pytest.mark.parametrize(("version", "said"), SERVERS)
def test_a_server_that_is_too_old_or_none_is_named(whole, monkeypatch, version, said) -> None:
    monkeypatch.setattr(Stranger, "version", version)
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        answers = [found(name) for name in ("MLflow", "audit log", "champion")]
        server.shutdown()
    for answer in answers:
        assert answer.startswith("no: MLflow at http://127.0.0.1")
        assert said in answer


def test_a_folder_that_mlflow_cannot_work_in_is_named(whole, monkeypatch) -> None:
    (whole / "My%20Project").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{whole}/My%20Project/mlflow.db")
    assert "in a folder with % in its path" in found("MLflow")


@pytest.mark.parametrize("name", ["/Shared/flights", "team:flights"])
def test_a_name_that_no_model_may_have_is_refused_before_the_work(monkeypatch, name) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with pytest.raises(Failure, match="MLFLOW_EXPERIMENT_NAME: it names the registered model"):
        load_settings()


def test_whatever_mlflow_raises_is_one_line(project) -> None:
    line = r"MLflow at sqlite.*see MLFLOW_TRACKING_URI"
    with pytest.raises(Failure, match=line), session(load_settings()) as client:
        client.log_metric("no such run", "x", object())
    with pytest.raises(ZeroDivisionError), session(load_settings()):
        1 / 0  # noqa: B018 - a mistake of ours is no failure of MLflow's
