import shutil
import subprocess
from pathlib import Path
from threading import Event

import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Refusal
from mlops_loop.onboarding import doctor as examination
from mlops_loop.onboarding.doctor import doctor, examine
from mlops_loop.release.promote import promote
from mlops_loop.tracking.session import experiment_name

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
    return {check.name: check.state + ": " * bool(check.what) + check.what for check in examine()}


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
    log = examination.audit.open_audit(examination.load_settings().prediction_log_url)
    name = experiment_name()
    for version in ("1", "2"):
        facts = {"version": version, "reason": ""}
        examination.audit.append(log, name, "refused", facts)
    assert states()["audit log"].startswith("ok")
    with log.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET line = replace(line, 'refused', 'promoted')")
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
    found = {
        name: examination.ask(name, examination.CHECKS[name]) for name in ("git", "data files")
    }
    assert found["git"].state == found["data files"].state == "no"
    assert "git knows no user.name" in found["git"].what
    assert found["data files"].what.startswith("table.csv (2 MB) is in git: git rm --cached")
    subprocess.run(["git", "rm", "--quiet", "--cached", "table.csv"], check=True)
    assert examination.ask("x", examination.data_files).state == "ok"
