import os
import shutil
import subprocess
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
from mlops_loop.release.promote import promote
from mlops_loop.tracking.session import experiment_name, session

from .conftest import ROOT, change, edit

SERVED = Path("build/champion")
# Gates that other tests are about, and that take time.
SLOW = dict.fromkeys(("server", "latency", "behaviour", "slices", "calibration"))


@pytest.fixture
def whole(project, monkeypatch) -> Path:
    """A project in which all that the doctor looks for is in order, but nothing promoted yet."""
    for name in ("pyproject.toml", "uv.lock", ".dvc/config"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    (project / "packages").symlink_to(ROOT / "packages")  # a member of the workspace
    name, email = ("config", "user.name", "x"), ("config", "user.email", "x@example.com")
    for command in (("init",), name, email, ("add", "params.yaml"), ("commit", "-m", "first")):
        subprocess.run(["git", *command], check=True, capture_output=True)
    monkeypatch.setenv("BUNDLE", str(SERVED))
    change(files.PARAMS, "gates", **SLOW)
    return project


def states() -> dict[str, str]:
    """Return each check's state and, unless that is ok, what it said."""
    found = [ask(name, check) for name, check in CHECKS.items()]
    return {check.name: f"{check.state}: {check.what}" for check in found}


def ask_one(name: str) -> Check:
    return ask(name, CHECKS[name])


def test_all_is_in_order_before_and_after_the_first_promotion(whole, capsys) -> None:
    doctor()
    said = capsys.readouterr().out
    assert "later  champion        nothing was ever promoted" in said
    assert said.endswith("everything is in order\n")
    assert not [name for name, state in states().items() if state.startswith("no")]
    promote()
    assert states()["champion"].startswith("ok: version 1")
    assert list((whole / ".dvc-remote").iterdir()) == []  # it leaves nothing behind
    edit(SERVED / "promotion.json", '"version": "1"', '"version": "7"')
    assert "holds version 7, the champion is 1" in states()["champion"]
    shutil.rmtree(SERVED)
    assert states()["champion"].startswith("no: there is no bundle")


def test_every_check_is_made_whatever_the_others_found(whole, monkeypatch, capsys) -> None:
    edit(whole / "pyproject.toml", "requires-python", 'dynamic = ["version"]\nrequires-python')
    shutil.rmtree(whole / ".git")
    (whole / "a file").touch()
    edit(whole / ".dvc/config", "../.dvc-remote", "../a file")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:hunter2@127.0.0.1:9")
    monkeypatch.setenv("PREDICTION_LOG_URL", "postgresql+psycopg://someone:hunter2@127.0.0.1:9/x")
    monkeypatch.setenv("API_KEYS", "hunter2")
    monkeypatch.setattr(examination, "GIBIBYTES", 1_000_000)
    with pytest.raises(Refusal, match="git, lock file, MLflow, DVC remote, prediction log"):
        doctor()
    said = capsys.readouterr().out
    assert len(said.splitlines()) == len(examination.CHECKS)
    assert "hunter2" not in said
    assert "Traceback" not in said
    refused = {line[7:21].strip() for line in said.splitlines() if line.startswith("no ")}
    wanted = {"git", "lock file", "MLflow", "DVC remote", "prediction log", "audit log"}
    assert refused == wanted | {"secrets", "champion", "disk"}


def test_a_program_or_a_password_that_is_missing_is_said(whole, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(whole))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    (whole / ".dvc/config").write_text("")
    found = states()
    assert found["git"].startswith("no: not installed")
    assert found["uv"].startswith("no: not installed")
    assert found["docker"].startswith("later: not installed")
    assert found["secrets"].startswith("no: MLFLOW_TRACKING_USERNAME is set")
    assert found["DVC remote"].startswith("no: DVC has no default remote")


def test_a_changed_line_of_the_audit_log_is_said(whole) -> None:
    log = examination.audit.open_audit(load_settings().prediction_log_url)
    name = experiment_name()
    for version in ("1", "2"):
        facts = examination.audit.Facts(version=version, reason="")
        examination.audit.append(log, name, "refused", facts)
    assert states()["audit log"].startswith("ok")
    with log.begin() as connection:
        connection.exec_driver_sql("UPDATE audit_log SET event = 'promoted'")
    assert states()["audit log"].startswith("no: line 1 was changed")


def test_what_does_not_answer_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(examination, "SECONDS", 0.1)
    found = examination.ask("x", lambda: str(Event().wait(5)))
    assert (found.state, found.what.split(":")[0]) == ("no", "no answer for 0.1 seconds")


def test_git_without_an_identity_and_a_table_in_git_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    Path("table.csv").write_text("x\n" * 1_000_000)
    identity = "-c", "user.name=x", "-c", "user.email=x@example.com"
    for command in (("init",), ("add", "table.csv"), (*identity, "commit", "-m", "first")):
        subprocess.run(["git", *command], check=True, capture_output=True)
    found = ask_one("git identity")
    assert found.state == "no"
    assert "git knows no user.name" in found.what
    found = ask_one("data files")
    assert found.state == "no"
    assert found.what.startswith("table.csv (2 MB) is in git: git rm --cached")
    subprocess.run(["git", "rm", "--quiet", "--cached", "table.csv"], check=True)
    assert ask_one("data files").state == "ok"


def test_a_failure_of_uv_is_passed_on_and_only_a_stale_lock_file_is_called_that(
    whole, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", "/proc/nowhere")
        assert "uv cannot check it: error: " in ask_one("lock file").what
        assert "cache" in ask_one("lock file").what
    edit(whole / "pyproject.toml", 'dependencies = ["mlops-loop"]', "dependencies = []")
    assert "is not in step with pyproject.toml" in ask_one("lock file").what
    edit(whole / "pyproject.toml", "[project]", "[project")
    assert "uv cannot check it: error: " in ask_one("lock file").what


def test_what_works_at_the_root_of_a_repository_only_is_said(whole, monkeypatch, capsys) -> None:
    assert ask_one("repository").state == "ok"
    folder = whole / "services" / "flights"
    (folder / ".github").mkdir(parents=True)
    monkeypatch.chdir(folder)
    found = ask_one("repository")
    assert found.state == "note"
    assert ".github do not run in a folder of a repository" in found.what
    assert "working-directory: services/flights" in found.what


def test_what_dvc_needs_of_the_person_is_said(whole, monkeypatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    found = ask_one("user")
    assert found.state == "no"
    assert found.what.endswith("set USER to any name")
    assert user_name().startswith("uid-")
    monkeypatch.setenv("PATH", os.defpath)
    found = ask_one("command")
    assert found.state == "note"
    assert "start dvc by `uv run dvc`" in found.what


class Stranger(BaseHTTPRequestHandler):
    """Answers /version as it is told to, and everything else with an error page."""

    version = ""

    def do_GET(self) -> None:
        known = self.path == "/version" and self.version
        body = self.version if known else "<!doctype html> not here"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("version", "said"),
    [("2.19.0", "server 2.19.0, needed 3.x"), ("", "no MLflow server answers there")],
)
def test_a_server_that_is_too_old_or_none_is_named(whole, monkeypatch, version, said) -> None:
    monkeypatch.setattr(Stranger, "version", version)
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        found = states()
        server.shutdown()
    for name in ("MLflow", "audit log", "champion"):
        assert found[name].startswith("no: MLflow at http://127.0.0.1")
        assert said in found[name]


def test_a_folder_that_mlflow_cannot_work_in_is_named(whole, monkeypatch) -> None:
    folder = whole / "My%20Project"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    assert "in a folder with % in its path" in ask_one("MLflow").what


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
