"""The GitHub workflows: valid, pinned, with least permissions, and really run."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TREE, Project, copy, execute
from containers import STANDINS, docker, key_pair, need_engine, need_image, serve_registry
from test_deploy import free_port
from tools import ACT, need_program

WORKFLOWS = sorted(path.name for path in (TREE / ".github/workflows").glob("*.yml"))
CLUSTERS = "cd-cluster.yml"  # cd.yml where the platform is a cluster
DELIVERY = {
    "build": {"id-token", "packages"},
    "staging": {"id-token"},
    "production": {"id-token"},
}
WRITES = {
    ("ci", "check"): {"id-token"},
    ("ci", "comment"): {"pull-requests"},
    **{(name, job): scopes for name in ("cd", "cd-cluster") for job, scopes in DELIVERY.items()},
    ("monitor", "monitor"): {"actions"},
    ("retrain", "retrain"): {"actions", "contents", "id-token", "pull-requests"},
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


def steps(name: str, job: str | None = None) -> list[dict[str, Any]]:
    """Return the steps of a workflow's job, by default its only one."""
    found = workflow(name)["jobs"]
    return list((found[job] if job else next(iter(found.values())))["steps"])


def script_with(name: str, text: str) -> str:
    """Return the script of the only step that holds a text."""
    (script,) = (s["run"] for s in steps(name) if text in s.get("run", ""))
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
    for name in sorted({*WORKFLOWS} - {CLUSTERS}):
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


def test_the_retraining_is_started_with_a_reason(tmp_path: Path) -> None:
    path = stand_in(tmp_path, "gh", 'printf "%s\\n" "$@" > asked')
    script = script_with("monitor.yml", "gh workflow run")
    bash(script, tmp_path, PATH=path, REASON="decay: $(touch ran) https://example.com/1")
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    reason = "reason=decay: $(touch ran) https://example.com/1"
    assert asked == ["workflow", "run", "retrain.yml", "-f", reason]
    assert not (tmp_path / "ran").exists()
    assert "reason" in workflow("retrain.yml")[True]["workflow_dispatch"]["inputs"]


def test_what_becomes_of_a_new_champion(tmp_path: Path) -> None:
    """It is delivered before anything that may fail; then data and pull request follow."""
    deliver, push, propose = steps("retrain.yml")[-3:]
    new = "hashFiles('build/delivery/promoted') != ''"
    conditions = [step["if"] for step in (deliver, push, propose)]
    assert conditions == [new, f"{new} && vars.DVC_REMOTE != ''", new]
    asking = 'echo "$0 $@" >> asked'
    for command in ("gh", "uv"):
        path = stand_in(tmp_path, command, asking)
    for script in (deliver["run"], push["run"]):
        assert bash(script, tmp_path, PATH=path, DVC_REMOTE="a storage").returncode == 0
    asked = (tmp_path / "asked").read_text("utf-8").replace(f"{tmp_path}/", "").splitlines()
    assert asked == [
        "gh workflow run cd.yml -f deliver=champion",
        "uv run dvc push --remote a storage",
    ]
    assert "deliver" in workflow("cd.yml")[True]["workflow_dispatch"]["inputs"]
    assert propose["uses"].startswith("peter-evans/create-pull-request@")
    assert propose["with"]["body-path"] == "reports/retrain/summary.md"


def test_only_a_smoke_test_that_failed_rolls_back() -> None:
    """A release that does not become healthy goes back by itself."""
    for name in ("cd.yml", CLUSTERS):
        for job in ("staging", "production"):
            *_, deploy, smoke, back = steps(name, job)
            assert deploy["run"] == f"bash deploy/deliver.sh deploy {job}"
            assert smoke["run"] == f"bash deploy/deliver.sh smoke {job}"
            assert back["run"] == f"bash deploy/deliver.sh roll-back {job}"
            assert back["if"] == f"failure() && steps.{smoke['id']}.conclusion == 'failure'"
            assert workflow(name)["jobs"][job]["environment"] == job


@pytest.mark.parametrize("name", ["ci.yml", "cd.yml", CLUSTERS])
def test_a_step_that_fails_stops_the_chain(name: str) -> None:
    """No step or job goes on after a failure but the roll-back; act sees it in ci.yml."""
    for job, body in workflow(name)["jobs"].items():
        for part in (body, *body["steps"]):
            assert "continue-on-error" not in part, job
            goes_on = re.search(r"always\(\)|failure\(\)|cancelled\(\)", str(part.get("if", "")))
            assert not goes_on or "deliver.sh roll-back" in part["run"], job
    if name != "ci.yml":
        assert workflow(name)["jobs"]["staging"]["needs"] == "build"
        assert workflow(name)["jobs"]["production"]["needs"] == ["build", "staging"]


def test_the_comparison_is_one_comment_of_a_job_that_runs_no_code_of_the_pull_request() -> None:
    download, comment = steps("ci.yml", "comment")
    assert download["uses"].startswith("actions/download-artifact@")
    assert "--edit-last --create-if-none" in comment["run"]


def test_the_workflows_hold_no_logic() -> None:
    """Each script is one command, which is a step of deliver.sh but for what is GitHub's own."""
    for name, job, body in jobs():
        for script in (step["run"] for step in body["steps"] if "run" in step):
            assert len(script.splitlines()) == 1, f"{name}: {job}"
            assert script.startswith(("bash deploy/deliver.sh ", "cat ", "gh ", "uv run dvc push "))


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


def test_ci_compares_the_contract_with_the_one_it_would_be_merged_into(
    rendered: Project, tmp_path: Path
) -> None:
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
    path = stand_in(tmp_path, "uv", '[ "$3" != schema ] || git show "$5:./schema.yaml"')
    shutil.copytree(rendered.path / "deploy", clone / "deploy")
    for base, compared in (("HEAD^1", "base"), ("", "")):  # a label allows what breaks it
        done = bash("bash deploy/deliver.sh check", clone, PATH=path, BASE=base)
        assert done.returncode == 0, done.stderr
        assert done.stdout == compared
    assert "&& 'HEAD^1' || ''" in workflow("ci.yml")["jobs"]["check"]["env"]["BASE"]


@pytest.mark.slow
def test_ci_is_red_when_the_lock_is_out_of_step(pipeline: Project, tmp_path: Path) -> None:
    """A fresh clone: its parameters, code and metrics must be those that dvc.lock was made with."""
    clone = tmp_path / "clone"
    pipeline.run("git", "clone", "--quiet", pipeline.path, clone)
    # What would run the stages does not: the question is asked before.
    without_stages = stand_in(
        tmp_path, "uv", f'[ "$3" != repro ] || exit 0; exec {shutil.which("uv")} "$@"'
    )

    def check() -> int:
        venv = str(pipeline.path / ".venv")
        env = {"UV_PROJECT_ENVIRONMENT": venv, "UV_NO_SYNC": "1", "PATH": without_stages}
        return bash("bash deploy/deliver.sh pipeline", clone, **env).returncode

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
        assert check() == 3, name
        (clone / name).write_text(before, "utf-8")
    assert check() == 0


@pytest.mark.slow
def test_ci_shows_what_a_pull_request_changes(pipeline: Project, tmp_path: Path) -> None:
    """Against the base: a pull request that commits its metrics does not differ from HEAD."""
    project = copy(pipeline, tmp_path)
    venv = {"UV_PROJECT_ENVIRONMENT": str(pipeline.path / ".venv"), "UV_NO_SYNC": "1"}

    def shown() -> str:
        done = bash("bash deploy/deliver.sh compare", project.path, **venv)
        assert done.returncode == 0, done.stderr
        assert (project.path / "build/delivery/plots/index.html").is_file()
        return (project.path / "build/delivery/comparison.md").read_text("utf-8")

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


@dataclass(frozen=True)
class Runner:
    """Runs workflows of a clone, with stand-ins for the actions."""

    clone: Path
    options: tuple[str, ...]

    def act(
        self, event: str, name: str, *options: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = ("act", event, "--workflows", f".github/workflows/{name}", *self.options)
        return execute(*command, *options, cwd=self.clone, env=env, timeout=3000)


@pytest.fixture
def runner(
    installed: Project, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    need_engine()
    if not ACT:
        pytest.skip("act is not installed, or ACT_IMAGE names no image for its runner")
    clone = tmp_path / "clone"
    installed.run("git", "clone", "--quiet", installed.path, clone)
    used = re.findall(r"uses: ([\w-]+/([\w-]+)@\w+)", actions_text(installed))
    mounts = {
        installed.run("uv", "cache", "dir").stdout.strip(): "/root/.cache/uv",
        str(tmp_path / "artifacts"): "/artifacts",
        str(tmp_path / "gh"): "/usr/local/bin/gh",
        str(tmp_path / "ssh"): "/usr/local/bin/ssh",
        str(tmp_path_factory.getbasetemp() / "byte-code"): "/byte-code",
        need_program("cosign", "cosign"): "/usr/local/bin/cosign",
    }
    stand_in(tmp_path, "gh", 'echo "gh $@" >> /artifacts/asked')
    # The host that it is asked for is this machine: its engine.
    stand_in(tmp_path, "ssh", "unset DOCKER_HOST; exec docker system dial-stdio")
    volumes = " ".join(f"--volume {source}:{target}" for source, target in mounts.items())
    standins = {use: STANDINS / name for use, name in used if name != "checkout"}
    options = (
        # act gives up where an engine is slow to remove a container: it is done below.
        *("--reuse", "--pull=false", "--platform", f"ubuntu-latest={os.environ['ACT_IMAGE']}"),
        *(f"--local-repository={use}={folder}" for use, folder in standins.items()),
        *("--container-options", volumes),
        *("--env", "UV_LINK_MODE=symlink"),  # the cache is another file system there
        # Each run has a new environment; what is in it is compiled once.
        *("--env", "UV_PROJECT_ENVIRONMENT=/environment"),
        *("--env", "PYTHONPYCACHEPREFIX=/byte-code", "--env", "MYPY_CACHE_DIR=/byte-code/mypy"),
    )
    before = left_by_act()
    yield Runner(clone, options)
    for kind, names in left_by_act().items():
        for name in names - before[kind]:
            docker(kind, "rm", "--force", *(["--volumes"] if kind == "container" else []), name)


def left_by_act() -> dict[str, set[str]]:
    """Return the containers and volumes that act made."""
    containers = docker("container", "ls", "--all", "--quiet", "--filter", "name=^act-")
    volumes = docker("volume", "ls", "--quiet", "--filter", "name=^act-")
    return {"container": set(containers.split()), "volume": set(volumes.split())}


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_ci_runs_and_goes_red(runner: Runner, tmp_path: Path) -> None:
    """Run the real ci.yml with all of the project's tests: green for a fresh project, red once
    something unused is imported."""
    green = runner.act("push", "ci.yml", "--container-daemon-socket", "-")
    assert green.returncode == 0, green.stdout[-5000:]
    assert "test.roc_auc" in (tmp_path / "artifacts/comparison/comparison.md").read_text("utf-8")
    (package,) = (runner.clone / "src").iterdir()
    module = package / "ingest.py"
    module.write_text(f"import json\n{module.read_text('utf-8')}", "utf-8")
    red = runner.act("push", "ci.yml", "--container-daemon-socket", "-")
    assert red.returncode == 1
    assert "F401" in red.stdout
    assert "deliver.sh test" not in red.stdout  # nothing after it runs


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_cd_goes_from_a_commit_to_production(
    runner: Runner, pipeline: Project, tmp_path: Path
) -> None:
    """Run the real cd.yml: everything but the approval, which is GitHub's.

    Its pipeline finds dvc.lock in step and all data on the remote; that of ci.yml runs each stage.
    """
    shutil.copytree(pipeline.path / ".dvc/cache", runner.clone / ".dvc-remote")
    shutil.copy(pipeline.path / "dvc.lock", runner.clone)
    shutil.copytree(pipeline.path / "reports", runner.clone / "reports")
    key = key_pair(tmp_path / "key")
    shutil.copy(tmp_path / "key/cosign.pub", runner.clone / "deploy")
    execute("git", "add", "deploy", cwd=runner.clone)
    lines = (runner.clone / "deploy/Dockerfile").read_text("utf-8").splitlines()
    images = [line.partition("=")[2] for line in lines if re.match(r"ARG \w+_IMAGE=", line)]
    compose = yaml.safe_load((runner.clone / "deploy/compose.yaml").read_text("utf-8"))
    for image in (*images, compose["services"]["postgres"]["image"]):
        need_image(image)
    stack = {"API_PORT": free_port(), "COMPOSE_PROJECT_NAME": "template-act"}
    secrets = key | {"API_KEYS": "tester:k3y", "POSTGRES_PASSWORD": "pw"}
    variables = {
        "MLFLOW_TRACKING_URI": "sqlite:///.mlflow/mlflow.db",
        "STAGING_HOST": "deployer@staging",
        "PRODUCTION_HOST": "deployer@production",
        "SKIP_AUDIT": "true",
    }
    with serve_registry(tmp_path / "registry") as address:
        variables["IMAGE_NAME"] = f"{address}/flight-delays"
        try:
            engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
            options = [f"--container-daemon-socket={engine}", "--use-gitignore=false"]
            options += [f"--env={name}={value}" for name, value in stack.items()]
            options += [f"--var={name}={value}" for name, value in variables.items()]
            options += [f"--secret={name}" for name in secrets]
            done = runner.act("push", "cd.yml", *options, **secrets)
            assert done.returncode == 0, done.stdout[-5000:]
        finally:
            docker(
                *("compose", "--file", runner.clone / "deploy/compose.yaml", "down", "--volumes"),
                check=False,
                **stack | secrets,
            )
    assert "Running stage" not in done.stdout
    image = (tmp_path / "artifacts/delivery/image").read_text("utf-8").strip()
    assert image.startswith(f"{variables['IMAGE_NAME']}@sha256:")
    order = re.findall(r"Success - Main bash deploy/deliver.sh (.*?) \[", done.stdout)
    assert order == [
        *("check", "test", "pipeline", "gates", "build", "scan", "sbom", "sign", "push"),
        *("deploy staging", "smoke staging", "deploy production", "smoke production"),
    ]


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize(
    ("name", "job", "ends", "said"),
    [
        ("monitor.yml", "monitor", 1, "error: there is no bundle in build/champion"),
        ("retrain.yml", "retrain", 0, "## Gates"),  # a refusal is an answer, too
    ],
)
def test_what_runs_on_a_schedule_needs_its_variables(
    runner: Runner, name: str, job: str, ends: int, said: str
) -> None:
    """Without them it is skipped; with them it runs: nobody has promoted anything yet."""
    params = runner.clone / "params.yaml"
    text = params.read_text("utf-8")
    assert "window_days: null" in text
    params.write_text(text.replace("window_days: null", "window_days: 60"), "utf-8")  # is enough
    options = "--container-daemon-socket", "-"
    skipped = runner.act("workflow_dispatch", name, *options)
    assert skipped.returncode == 0, skipped.stdout[-3000:]
    assert "deliver.sh" not in skipped.stdout
    variables = ["--var", "PREDICTION_LOG_URL=sqlite:///predictions.db"]
    variables += ["--var", "MLFLOW_TRACKING_URI=sqlite:///.mlflow/mlflow.db"]
    ran = runner.act("workflow_dispatch", name, *options, *variables)
    assert f"deliver.sh {job}" in ran.stdout
    assert ran.returncode == ends, ran.stdout[-3000:]
    assert said in ran.stdout
