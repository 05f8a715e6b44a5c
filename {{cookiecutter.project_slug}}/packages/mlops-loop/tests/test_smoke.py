"""`smoke` against the real server, and `doctor --ci` against a stand-in for `gh`."""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.cli.app import APP
from mlops_loop.onboarding import github
from mlops_loop.onboarding.doctor import doctor
from mlops_loop.serving.smoke import smoke

from .server import free_port, install, logged, running

KEY = "smoke-test-key"


def test_a_running_server_is_asked_its_own_example(project, monkeypatch) -> None:
    install("7")
    monkeypatch.setenv("BUNDLE", "served")
    monkeypatch.setenv("API_KEYS", f"first:{KEY},second:other")
    with running() as (address, _):
        assert smoke(address + "/", load_settings()).startswith('version 7 answered: {"id": ')
        assert [line["key_name"] for line in logged()] == ["first"]
        monkeypatch.setenv("API_KEYS", "first:wrong")
        with pytest.raises(Refusal, match="answered 401"):
            smoke(address, load_settings())


def test_what_does_not_answer_is_an_error() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Failure, match=r"does not answer.*is the API running there"):
        smoke(address, load_settings())
    assert CliRunner().invoke(APP, ["smoke", "127.0.0.1:8000"]).exit_code == 2


GH = """#!/usr/bin/env python3
import json, sys
there = json.load(open("there.json"))
words = sys.argv[1:]
if words[:2] == ["auth", "status"]:
    sys.exit(0 if there["auth"] else "not logged in")
if words[0] in ("variable", "secret"):
    place = words[words.index("--env") + 1] if "--env" in words else ""
    print(*there[words[0]].get(place, []), sep="\\n")
elif words[:2] == ["api", "repos/{owner}/{repo}/environments"]:
    print(*there["environments"], sep="\\n")
elif words[0] == "api" and words[1].endswith("permissions/workflow"):
    print("true")
"""
WORKFLOW = """
jobs:
  check: {steps: [{env: {A: "${{ secrets.NETRC || '' }}"}}]}
  release:
    environment: production
    if: vars.HOST != ''
    env: {KEYS: "${{ secrets.API_KEYS }}", HOST: "${{ vars.HOST }}"}
"""


@pytest.fixture
def there(project, monkeypatch):
    """A function that says what GitHub has, and returns what the doctor says of it."""
    (project / "gh").write_text(GH)
    (project / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", str(project), prepend=":")
    github.FOLDER.mkdir(parents=True)
    (github.FOLDER / "cd.yml").write_text(WORKFLOW)
    subprocess.run(["git", "init", "--quiet"], check=True)

    def say(**known: object) -> list[str]:
        nothing = {"auth": True, "variable": {}, "secret": {}, "environments": []}
        Path("there.json").write_text(json.dumps(nothing | known))
        github.known.cache_clear()
        github.environments.cache_clear()
        return [str(found) for found in github.findings()]

    return say


def test_doctor_names_what_github_lacks(there, capsys) -> None:
    with pytest.raises(Failure, match=r"GitHub cannot be asked .*gh auth login"):
        there(auth=False)
    (skipped,) = there()
    assert "cd: release is skipped without the variable HOST: gh variable set HOST" in skipped
    host = {"": ["HOST"]}
    place, secret = there(variable=host)
    assert "the environment production is missing: gh api" in place
    assert "the secret API_KEYS of the environment production is missing" in secret
    (approval,) = there(
        variable=host, secret={"production": ["API_KEYS"]}, environments=["production "]
    )
    assert "nobody approves a release to production" in approval
    approved = ["production required_reviewers"]
    everything = {"variable": host, "environments": approved}
    assert there(secret={"production": ["API_KEYS"]}, **everything) == []
    doctor(ci=True)
    assert capsys.readouterr().out == "the CI system has all that the project needs\n"
    assert len(there(**everything)) == 1
    with pytest.raises(Refusal, match="the CI system lacks 1 of the things above"):
        doctor(ci=True)


def test_workflows_in_a_folder_of_a_repository_are_noted(there, project, monkeypatch) -> None:
    (project / "services").mkdir()
    for name in (".github", "gh", "there.json"):
        if (project / name).exists():
            (project / name).rename(project / "services" / name)
    monkeypatch.setenv("PATH", str(project / "services"), prepend=":")
    monkeypatch.chdir(project / "services")
    assert "do not run in a folder of a repository" in there()[0]
