"""The GitHub workflows: valid, pinned, with least permissions, and really run."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TREE, Project, copy, execute
from containers import STANDINS, need_engine

WORKFLOWS = sorted(path.name for path in (TREE / ".github/workflows").glob("*.yml"))
WRITES = {
    ("cd", "build"): {"packages"},
    ("monitor", "monitor"): {"actions"},
    ("retrain", "retrain"): {"actions", "contents", "pull-requests"},
}


def workflow(name: str) -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load((TREE / ".github/workflows" / name).read_text("utf-8"))
    return data


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in WORKFLOWS:
        for job, body in workflow(name)["jobs"].items():
            yield name.removesuffix(".yml"), job, body


def scripts() -> str:
    return "\n".join(step.get("run", "") for _, _, job in jobs() for step in job["steps"])


def steps(name: str) -> list[dict[str, Any]]:
    """Return the steps of a workflow's only job."""
    (body,) = workflow(name)["jobs"].values()
    return list(body["steps"])


def step(name: str, which: str) -> str:
    """Return the script of the step with this id or name."""
    (script,) = (s["run"] for s in steps(name) if which in (s.get("id"), s.get("name")))
    return str(script)


def stand_in(folder: Path, command: str, script: str) -> str:
    """Make a command that does this instead; return the PATH on which it is found first."""
    (folder / command).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (folder / command).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def bash(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the runner would with `shell: bash`."""
    files = {"GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "summary", "RUNNER_TEMP": "."}
    env |= {key: str(cwd / value) for key, value in files.items()}
    command = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
    return execute(*command, cwd=cwd, env={"CLI": "cli"} | env)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def output(folder: Path) -> str:
    """Return what a script gave to the steps after it."""
    path = folder / "output"
    return path.read_text("utf-8") if path.exists() else ""


def actions_text(project: Project) -> str:
    return "\n".join(p.read_text("utf-8") for p in (project.path / ".github").rglob("*.yml"))


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
        ("vendor.github-actions", ".github/actions/*/action.yml"),
    ],
)
def test_schema(rendered: Project, schema: str, pattern: str) -> None:
    found = sorted(rendered.path.glob(pattern))
    assert found
    rendered.run("check-jsonschema", "--builtin-schema", schema, *found)


def test_zizmor(rendered: Project) -> None:
    rendered.run(
        *("zizmor", "--offline", "--no-progress", "--strict-collection", "--persona", "pedantic"),
        rendered.path,
    )


def test_workflows_are_copied_as_they_are(rendered: Project) -> None:
    for name in WORKFLOWS:
        path = Path(".github/workflows", name)
        assert (rendered.path / path).read_bytes() == (TREE / path).read_bytes()


def test_actions_are_pinned_by_one_commit_each(rendered: Project) -> None:
    uses = re.findall(r"uses: (.*)", actions_text(rendered))
    pins: dict[str, str] = {}
    for use in uses:
        if use.startswith("./"):
            assert (rendered.path / use.split()[0] / "action.yml").is_file()
            continue
        pin = re.fullmatch(r"([\w/-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", use)
        assert pin, use
        assert pins.setdefault(pin[1], pin[2]) == pin[2]
    assert "actions/checkout" in pins


def test_permissions_are_the_least() -> None:
    assert all(workflow(name)["permissions"] == {} for name in WORKFLOWS)
    for name, job, body in jobs():
        writes = {scope for scope, level in body["permissions"].items() if level != "read"}
        assert writes == WRITES.get((name, job), set()), f"{name}: {job}"


def test_what_starts_what() -> None:
    started = set(re.findall(r"gh workflow run (\S+)", scripts()))
    assert started == {"cd.yml", "retrain.yml"}
    for name in started:
        assert "workflow_dispatch" in workflow(name)[True]  # YAML 1.1 reads `on` as true


def test_scripts_parse(tmp_path: Path) -> None:
    for name, job, body in jobs():
        for script in (step["run"] for step in body["steps"] if "run" in step):
            done = execute("bash", "-n", cwd=tmp_path, input=script)
            assert done.returncode == 0, f"{name}: {job}: {done.stderr}"


@pytest.mark.slow
def test_every_verb_exists(installed: Project) -> None:
    verbs = set(re.findall(r'uv run "\$CLI" (\S+)', scripts()))
    assert verbs == {"promote", "monitor", "retrain", "schema"}
    for verb in verbs:
        installed.uv(installed.slug, verb, "--help")


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (1, 1), (2, 2), (137, 137)])
@pytest.mark.parametrize("name", ["monitor.yml", "retrain.yml"])
def test_a_crash_is_never_a_verdict(tmp_path: Path, name: str, code: int, ends: int) -> None:
    write(tmp_path / "reports/monitor/latest.json", '{"verdicts": ["drift"]}')
    (tmp_path / "reports/retrain").mkdir(parents=True)
    path = stand_in(tmp_path, "uv", f"touch reports/retrain/summary.md; echo said; exit {code}")
    done = bash(step(name, "verdict"), tmp_path, PATH=path)
    assert done.returncode == ends
    assert "true" not in output(tmp_path)
    assert (tmp_path / "summary").read_text("utf-8").rstrip() == "said"


@pytest.mark.parametrize("name", ["monitor.yml", "retrain.yml"])
def test_a_refusal_without_a_verdict_is_a_failure(tmp_path: Path, name: str) -> None:
    """Such as of an audit log that was tampered with: then nothing was judged."""
    path = stand_in(tmp_path, "uv", "exit 3")
    assert bash(step(name, "verdict"), tmp_path, PATH=path).returncode != 0
    assert output(tmp_path) == ""


@pytest.mark.parametrize(
    ("verdicts", "decay"),
    [
        (["drift"], False),
        (["quality"], False),
        (["drift", "quality"], False),
        (["decay"], True),
        (["drift", "quality", "decay"], True),
    ],
)
def test_only_decay_starts_the_retraining(tmp_path: Path, verdicts: list[str], decay: bool) -> None:
    write(tmp_path / "reports/monitor/latest.json", json.dumps({"verdicts": verdicts}))
    path = stand_in(tmp_path, "uv", "exit 3")
    assert bash(step("monitor.yml", "verdict"), tmp_path, PATH=path).returncode == 0
    assert output(tmp_path) == f"decay={str(decay).lower()}\n"
    (start,) = (s for s in steps("monitor.yml") if "gh workflow run" in s.get("run", ""))
    assert start["if"] == "steps.verdict.outputs.decay == 'true'"


def test_the_retraining_is_started_with_a_reason(tmp_path: Path) -> None:
    path = stand_in(tmp_path, "gh", 'printf "%s\\n" "$@" > asked')
    script = step("monitor.yml", "Start the retraining")
    bash(script, tmp_path, PATH=path, REASON="decay: $(touch ran) https://example.com/1")
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    reason = "reason=decay: $(touch ran) https://example.com/1"
    assert asked == ["workflow", "run", "retrain.yml", "-f", reason]
    assert not (tmp_path / "ran").exists()
    assert "reason" in workflow("retrain.yml")[True]["workflow_dispatch"]["inputs"]


@pytest.mark.parametrize(
    ("force", "reason", "options"),
    [
        ("", "", ["--reason="]),
        ("false", "monthly", ["--reason=monthly"]),
        ("true", '"; --x $(touch ran)', ['--reason="; --x $(touch ran)', "--force"]),
    ],
)
def test_what_the_retraining_is_told(
    tmp_path: Path, force: str, reason: str, options: list[str]
) -> None:
    path = stand_in(tmp_path, "uv", 'printf "%s\\n" "$@" > asked')
    script = step("retrain.yml", "verdict")
    done = bash(script, tmp_path, PATH=path, FORCE=force, REASON=reason)
    assert done.returncode == 0
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert asked == ["run", "cli", "retrain", *options]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("promoted", "code", "ends", "new"),
    [
        (True, 0, 0, "new=true\n"),
        (False, 0, 0, "new=false\n"),  # nothing to do, or champion already
        (False, 3, 0, ""),  # refused
        (True, 1, 1, ""),  # and then it crashed
    ],
)
def test_only_a_new_champion_is_delivered(
    tmp_path: Path, promoted: bool, code: int, ends: int, new: str
) -> None:
    document = json.dumps({"promoted": promoted})
    write(tmp_path / "reports/retrain/summary.json", '{"promoted": true}')  # of another run
    writes = f"cd reports/retrain; echo '{document}' > summary.json; echo '| table |' > summary.md"
    path = stand_in(tmp_path, "uv", f"echo said; {writes}; exit {code}")
    done = bash(step("retrain.yml", "verdict"), tmp_path, PATH=path)
    assert done.returncode == ends
    assert output(tmp_path) == new
    assert (tmp_path / "summary").read_text("utf-8") == "said\n\n| table |\n"


def test_a_summary_of_another_run_delivers_nothing(tmp_path: Path) -> None:
    write(tmp_path / "reports/retrain/summary.json", '{"promoted": true}')
    path = stand_in(tmp_path, "uv", "echo not retrained: another retraining is running")
    assert bash(step("retrain.yml", "verdict"), tmp_path, PATH=path).returncode == 0
    assert output(tmp_path) == ""


def test_what_becomes_of_a_new_champion(tmp_path: Path) -> None:
    """It is delivered before anything that may fail; then data and pull request follow."""
    found = steps("retrain.yml")
    (at,) = (number for number, s in enumerate(found) if s.get("id") == "verdict")
    _, deliver, push, propose = found[at + 1 :]
    new = "steps.verdict.outputs.new == 'true'"
    conditions = [step["if"] for step in (deliver, push, propose)]
    assert conditions == [new, f"{new} && vars.DVC_REMOTE != ''", new]
    asking = 'echo "$0 $@" >> asked'
    for command in ("gh", "uv"):
        path = stand_in(tmp_path, command, asking)
    for script in (deliver["run"], push["run"]):
        assert bash(script, tmp_path, PATH=path, REMOTE="a storage").returncode == 0
    asked = (tmp_path / "asked").read_text("utf-8").replace(f"{tmp_path}/", "").splitlines()
    assert asked == ["gh workflow run cd.yml", "uv run dvc push --remote a storage"]
    assert propose["uses"].startswith("peter-evans/create-pull-request@")
    assert propose["with"]["body-path"] == "reports/retrain/summary.md"


def test_the_pull_request_holds_what_git_takes(rendered: Project, tmp_path: Path) -> None:
    """None of its files is ignored: `git add` would refuse all of them."""
    (propose,) = (s for s in steps("retrain.yml") if "add-paths" in s.get("with", {}))
    paths = propose["with"]["add-paths"].split()
    for name in (".gitignore", *paths):
        source = rendered.path / name
        write(tmp_path / name, source.read_text("utf-8") if source.exists() else "{}")
    assert execute("git", "init", "-q", cwd=tmp_path).returncode == 0
    done = execute("git", "add", "--", *paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_secrets_and_inputs_never_become_code() -> None:
    assert "${{" not in scripts()


def test_ci_compares_the_contract_with_the_one_it_would_be_merged_into(tmp_path: Path) -> None:
    """The checkout of a pull request is a merge commit, here as shallow as ci.yml asks for."""
    checkout = next(s for s in steps("ci.yml") if "actions/checkout" in s.get("uses", ""))

    origin, clone = tmp_path / "origin", tmp_path / "clone"

    def git(*command: str, cwd: Path = origin) -> None:
        author = "-c", "user.name=a", "-c", "user.email=a@example.com"
        done = execute("git", *author, *command, cwd=cwd)
        assert done.returncode == 0, done.stderr

    git("init", "-q", "-b", "main", str(origin), cwd=tmp_path)
    for branch, text in (("main", "first"), ("pull", "theirs"), ("main", "base")):
        if text != "first":
            git("checkout", "-q", *(["-b"] if branch == "pull" else []), branch)
        (origin / "schema.yaml").write_text(text, "utf-8")
        git("add", ".")
        git("commit", "-qm", text)
    git("merge", "-q", "--no-ff", "-s", "ours", "-m", "merge", "pull")
    depth = f"--depth={checkout['with']['fetch-depth']}"
    git("clone", "-q", depth, origin.as_uri(), str(clone), cwd=tmp_path)
    path = stand_in(tmp_path, "uv", 'git show "$5:./schema.yaml"')
    name = "The contract breaks no API client (the label breaking-change allows it)"
    assert bash(step("ci.yml", name), clone, PATH=path).stdout == "base"


@pytest.mark.slow
def test_ci_is_red_when_the_lock_is_out_of_step(pipeline: Project, tmp_path: Path) -> None:
    """A fresh clone: its parameters, code and metrics must be those that dvc.lock was made with."""
    clone = tmp_path / "clone"
    pipeline.run("git", "clone", "--quiet", pipeline.path, clone)
    script = step("ci.yml", "The committed dvc.lock is in step with code and parameters")

    def check() -> int:
        venv = str(pipeline.path / ".venv")
        return bash(script, clone, UV_PROJECT_ENVIRONMENT=venv, UV_NO_SYNC="1").returncode

    for name in ("dvc.lock", "reports/metrics.json"):
        (clone / name).parent.mkdir(exist_ok=True)
        shutil.copy(pipeline.path / name, clone / name)
    assert check() == 0
    for name, old, new in (
        ("params.yaml", "seed: 0", "seed: 1"),
        (f"src/{pipeline.package}/model.py", "\n", "\n\n"),
        ("packages/mlops-loop/src/mlops_loop/training/train.py", "\n", "\n\n"),
        ("dvc.yaml", f"cmd: {pipeline.slug} train", f"cmd: {pipeline.slug} train --verbose"),
        ("reports/metrics.json", "0.", "0.9"),
    ):
        before = (clone / name).read_text("utf-8")
        (clone / name).write_text(before.replace(old, new, 1), "utf-8")
        assert check() == 1, name
        (clone / name).write_text(before, "utf-8")
    assert check() == 0


@pytest.mark.slow
def test_ci_shows_what_a_pull_request_changes(pipeline: Project, tmp_path: Path) -> None:
    """Against the base: a pull request that commits its metrics does not differ from HEAD."""
    project = copy(pipeline, tmp_path)
    script = step("ci.yml", "Metrics, parameters and plots against the base")
    venv = {"UV_PROJECT_ENVIRONMENT": str(pipeline.path / ".venv"), "UV_NO_SYNC": "1"}

    def shown() -> str:
        done = bash(script, project.path, **venv)
        assert done.returncode == 0, done.stderr
        assert (project.path / "plots/index.html").is_file()
        return (project.path / "summary").read_text("utf-8")

    def commit() -> None:
        project.run("git", "add", "dvc.lock", "reports/metrics.json", "params.yaml")
        project.run("git", "commit", "--quiet", "--no-gpg-sign", "--message", "change")

    assert "| reports/metrics.json | test.roc_auc" in shown()  # the first commit has no parent
    commit()
    metrics_file, params_file = project.path / "reports/metrics.json", project.path / "params.yaml"
    metrics = json.loads(metrics_file.read_text("utf-8"))
    before = metrics["test"]["roc_auc"]
    metrics["test"]["roc_auc"] = 0.5
    metrics_file.write_text(json.dumps(metrics), "utf-8")
    params_file.write_text(params_file.read_text("utf-8").replace("max_iter: 100", "max_iter: 7"))
    commit()
    summary = shown()
    (row,) = [line for line in summary.splitlines() if "| test.roc_auc" in line]
    old, new = (float(cell) for cell in row.split("|")[3:5])
    assert old == pytest.approx(before, abs=1e-4)
    assert new == 0.5
    (row,) = [line for line in summary.splitlines() if "max_iter" in line]
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["100", "7"]


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_ci_runs_and_goes_red(installed: Project, tmp_path: Path) -> None:
    """Run the real ci.yml: green for a fresh project, red once something unused is imported."""
    need_engine()
    image = os.environ.get("ACT_IMAGE")
    if not image or not shutil.which("act"):
        pytest.skip("act is not installed, or ACT_IMAGE names no image for its runner")
    clone = tmp_path / "clone"
    installed.run("git", "clone", "--quiet", installed.path, clone)
    used = re.findall(r"uses: ([\w-]+/(setup-uv|upload-artifact)@\w+)", actions_text(installed))
    standins = [f"--local-repository={action}={STANDINS / name}" for action, name in {*used}]
    cache = installed.run("uv", "cache", "dir").stdout.strip()

    def act() -> subprocess.CompletedProcess[str]:
        return execute(
            *("act", "push", "--workflows", ".github/workflows/ci.yml", "--rm", "--pull=false"),
            *("--platform", f"ubuntu-latest={image}", "--container-daemon-socket", "-"),
            *standins,
            *("--container-options", f"--volume {cache}:/root/.cache/uv"),
            # All of the project's tests run in test_package.py: here, that they are run.
            *("--env", "PYTEST_ADDOPTS=--no-cov -k contract"),
            cwd=clone,
            timeout=1800,
        )

    green = act()
    assert green.returncode == 0, green.stdout[-5000:]
    module = clone / "src" / installed.package / "ingest.py"
    module.write_text(f"import json\n{module.read_text('utf-8')}", "utf-8")
    red = act()
    assert red.returncode == 1
    assert "F401" in red.stdout
