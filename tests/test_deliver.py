"""deploy/deliver.sh: what its steps make of the answers of tools; each gate stops its step."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import Project, copy, execute

Step = Callable[..., CompletedProcess[str]]
# A stand-in does as told for its verb; what reads JSON is Python itself.
NO_REMOTE = 'case "$*" in *"dvc config"*) exit 0 ;; esac'
PYTHON = 'case "$2" in python) shift 2; exec python3 "$@" ;; esac'


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.fixture
def step(rendered: Project, tmp_path: Path) -> Step:
    """Return a function that runs a step with stand-ins for programs: name -> script."""
    (tmp_path / "deploy").mkdir()
    script = (rendered.path / "deploy/deliver.sh").read_text("utf-8")
    write(tmp_path / "deploy/deliver.sh", script)

    def run(
        *arguments: str, programs: dict[str, str] | None = None, **env: str
    ) -> CompletedProcess[str]:
        folder = tmp_path / "bin"
        for name, does in (programs or {}).items():
            write(folder / name, f"#!/bin/sh\n{PYTHON if name == 'uv' else ''}\n{does}\n")
            (folder / name).chmod(0o755)
        env |= {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        return execute("bash", "deploy/deliver.sh", *arguments, cwd=tmp_path, env=env)

    return run


def made(folder: Path) -> set[str]:
    return {path.name for path in (folder / "build/delivery").iterdir()}


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("deploy",), ("smoke", "elsewhere")])
def test_wrong_usage_is_2_and_one_line(step: Step, arguments: tuple[str, ...]) -> None:
    done = step(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 3), (2, 1), (137, 1)])
@pytest.mark.parametrize("name", ["check", "test"])
def test_a_linter_that_crashes_says_nothing_about_the_code(
    step: Step, name: str, code: int, ends: int
) -> None:
    done = step(name, programs={"uv": f"exit {code}"})
    assert done.returncode == ends
    assert len(done.stderr.splitlines()) == (1 if code else 0)


@pytest.mark.parametrize(
    ("code", "deliver", "ends"),
    [(0, "", 0), (3, "", 3), (3, "champion", 0), (1, "champion", 1), (1, "", 1)],
)
def test_a_refused_candidate_ends_the_delivery_unless_the_champion_is_what_ships(
    step: Step, code: int, deliver: str, ends: int
) -> None:
    assert step("gates", programs={"uv": f"exit {code}"}, DELIVER=deliver).returncode == ends


@pytest.mark.parametrize(("status", "ends"), [('"code": 3', 3), ('"code": 1', 1)])
def test_a_stage_that_says_no_is_not_a_stage_that_crashes(
    step: Step, status: str, ends: int
) -> None:
    stops = f"echo '{{{status}}}' >$MLOPS_LOOP_STAGE_STATUS; exit 255"
    asked = f'[ "$3" != repro ] || {{ {stops}; }}'
    done = step("pipeline", programs={"uv": asked})
    assert done.returncode == ends, done.stderr


def test_data_comes_from_the_remote_where_there_is_one(step: Step, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    asked = 'echo "$*" >>asked; case "$*" in *core.remote) echo store ;; *.url) echo "$URL" ;; esac'
    for url, pulled in (("s3://bucket/data", True), ("../nowhere", False), ("..", True)):
        (tmp_path / "asked").unlink(missing_ok=True)
        assert step("pipeline", programs={"uv": asked}, URL=url).returncode == 0
        lines = (tmp_path / "asked").read_text("utf-8").splitlines()
        assert ("run dvc pull --remote store" in lines) == pulled, url
    done = step("pipeline", programs={"uv": asked}, URL="", DVC_REMOTE="other")
    assert done.returncode == 1
    assert "DVC_REMOTE is 'other', which .dvc/config does not have" in done.stderr
    broken = 'case "$*" in *core.remote) echo broken >&2; exit 1 ;; esac'
    done = step("pipeline", programs={"uv": broken})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: pipeline: DVC cannot read .dvc/config, see above"
    away = f'{asked}; [ "$3" != pull ] || exit 255'
    done = step("pipeline", programs={"uv": away}, URL="s3://bucket/data")
    assert done.returncode == 1
    assert "uv run dvc push" in done.stderr


def test_a_base_that_git_does_not_know_is_compared_with_nothing(step: Step, tmp_path: Path) -> None:
    execute("git", "init", "--quiet", cwd=tmp_path)
    done = step("compare", programs={"uv": "true"}, BASE="origin/nowhere")
    assert done.returncode == 1
    assert "BASE is 'origin/nowhere', which git does not know here" in done.stderr
    assert step("compare", programs={"uv": "true"}).returncode == 0  # of the first commit


def test_what_is_not_there_yet_is_one_line_each(step: Step, tmp_path: Path) -> None:
    done = step("build")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no bundle in build/champion" in done.stderr
    done = step("push")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the bundle is not signed" in done.stderr
    done = step("deploy", "staging")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "push one first" in done.stderr


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (1, 1), (2, 2), (137, 137)])
@pytest.mark.parametrize("name", ["monitor", "retrain"])
def test_a_crash_is_never_a_verdict(
    step: Step, tmp_path: Path, name: str, code: int, ends: int
) -> None:
    writes = "mkdir -p reports/monitor reports/retrain && touch reports/retrain/summary.md"
    writes += ' && echo \'{"verdicts": ["drift"]}\' >reports/monitor/latest.json'
    does = f"{NO_REMOTE}; {writes}; exit {code}"
    assert step(name, programs={"uv": does}).returncode == ends
    assert made(tmp_path) == set()


@pytest.mark.parametrize("name", ["monitor", "retrain"])
def test_a_refusal_without_a_verdict_is_a_failure(step: Step, tmp_path: Path, name: str) -> None:
    """Such as of an audit log that was tampered with: then nothing was judged."""
    write(tmp_path / "reports/monitor/latest.json", '{"verdicts": ["decay"]}')  # of another run
    assert step(name, programs={"uv": f"{NO_REMOTE}; exit 3"}).returncode == 3
    assert made(tmp_path) == set()


@pytest.mark.parametrize(
    ("verdicts", "decay"),
    [(["drift"], False), (["drift", "quality"], False), (["drift", "quality", "decay"], True)],
)
def test_only_decay_asks_for_a_retraining(
    step: Step, tmp_path: Path, verdicts: list[str], decay: bool
) -> None:
    document = json.dumps({"verdicts": verdicts})
    writes = f"mkdir -p reports/monitor; echo '{document}' >reports/monitor/latest.json; exit 3"
    assert step("monitor", programs={"uv": writes}).returncode == 0
    assert made(tmp_path) == ({"decay"} if decay else set())


@pytest.mark.parametrize(
    ("promoted", "code", "ends", "new"),
    [
        (True, 0, 0, True),
        (False, 0, 0, False),  # nothing to do, or champion already
        (False, 3, 0, False),  # refused
        (True, 1, 1, False),  # and then it crashed
    ],
)
def test_only_a_new_champion_is_delivered(
    step: Step, tmp_path: Path, promoted: bool, code: int, ends: int, new: bool
) -> None:
    summary = json.dumps({"promoted": promoted})
    writes = "mkdir -p reports/retrain; cd reports/retrain; "
    writes += f"echo '{summary}' >summary.json; touch summary.md; exit {code}"
    only = f'[ "$3" != retrain ] || {{ {writes}; }}'
    assert step("retrain", programs={"uv": only}).returncode == ends
    assert made(tmp_path) == ({"promoted"} if new else set())


@pytest.mark.parametrize(
    ("force", "reason", "options"),
    [
        ("", "", ["--reason="]),
        ("false", "monthly", ["--reason=monthly"]),
        ("true", '"; --x $(touch ran)', ['--reason="; --x $(touch ran)', "--force"]),
    ],
)
def test_what_the_retraining_is_told(
    step: Step, tmp_path: Path, force: str, reason: str, options: list[str]
) -> None:
    asked = 'case "$*" in *retrain*) printf "%s\\n" "$@" >asked ;; esac'
    assert step("retrain", programs={"uv": asked}, FORCE=force, REASON=reason).returncode == 0
    lines = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert lines == ["run", "flight-delays", "retrain", *options]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_each_gate_stops_its_step(pipeline: Project, tmp_path: Path) -> None:
    """With the real tools: linter, tests, the data's contract, the limits of the gates."""
    project = copy(pipeline, tmp_path)
    venv = {"UV_PROJECT_ENVIRONMENT": str(pipeline.path / ".venv"), "UV_NO_SYNC": "1"}

    def spoiled(name: str, file: str, old: str, new: str) -> CompletedProcess[str]:
        path = project.path / file
        before = path.read_text("utf-8")
        assert old in before
        path.write_text(before.replace(old, new, 1), "utf-8")
        (project.path / "dvc.lock").unlink(missing_ok=True)
        done = project.run("bash", "deploy/deliver.sh", name, check=False, env=venv, timeout=1800)
        path.write_text(before, "utf-8")
        return done

    module = f"src/{project.package}/ingest.py"
    done = spoiled("check", module, '"""', 'import json\n"""')
    assert done.returncode == 3
    assert "refused: check:" in done.stderr
    done = spoiled("pipeline", "schema.yaml", "miles, minimum: 0", "miles, minimum: 19")
    assert done.returncode == 3, done.stderr
    assert "refused: pipeline: a stage's check says no" in done.stderr
    done = spoiled("gates", "params.yaml", "min_gain: 0.0", "min_gain: 0.9")
    assert done.returncode == 3, done.stderr
    shutil.rmtree(project.path / "tests")  # all of the project's take a minute
    write(project.path / "tests/test_one.py", "def test_one() -> None:\n    assert 1 == 1\n")
    done = spoiled("test", "tests/test_one.py", "1 == 1", "1 == 2")
    assert done.returncode == 3
    assert "refused: test:" in done.stderr
