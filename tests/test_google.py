"""Google Cloud: the builds, their triggers, Cloud Deploy, the setup, and what the doctor says."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudbuild
import pytest
import yaml
from conftest import Bake, Project, execute
from containers import docker, need_engine, need_image
from google.cloud.deploy_v1.types import Automation, DeliveryPipeline, Target
from google.cloud.devtools.cloudbuild_v1.types import Build, BuildTrigger
from google.protobuf.json_format import ParseDict
from google_api import google_cloud
from tools import need_program

BUILDS = ["cloudbuild.yaml", "cloudbuild-cd.yaml", "cloudbuild-retrain.yaml"]
BUILDS += ["cloudbuild-monitor.yaml"]
PLATFORMS = ("docker-compose", "kubernetes", "kserve", "seldon")
CHAIN = ["check", "test", "pipeline", "gates", "build", "scan", "sbom", "sign", "push"]
CHAIN += ["deploy staging", "smoke staging", "deploy production", "smoke production"]
SETTINGS = {
    "PROJECT_ID": "p",
    "CONNECTION": "github",
    "REPOSITORY": "flights",
    "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
    "CLOUD_SQL": "p:europe-west1:log",
    "CLUSTER_STAGING": "projects/p/locations/europe-west1/clusters/one",
    "CLUSTER_PRODUCTION": "projects/p/locations/europe-west1/clusters/two",
}
WHERE = "projects/p/locations/europe-west1"


@pytest.fixture(scope="module")
def google(bake: Bake) -> Project:
    """Return a project for Cloud Run. Leave it as it is."""
    return bake(ci="google-cloud-build")


@pytest.fixture(scope="module", params=PLATFORMS)
def each(bake: Bake, request: pytest.FixtureRequest) -> Project:
    return bake(ci="google-cloud-build", platform=request.param)


def documents(project: Project, name: str) -> list[dict[str, Any]]:
    """Return the documents of a file, with the settings in it as setup.sh puts them."""
    text = (project.path / "deploy/google" / name).read_text("utf-8")
    values = SETTINGS | {"REGION": "europe-west1", "ACCOUNT": "a", "BUCKET": "b"}
    if not name.startswith("cloudbuild"):
        text = re.sub(r"\$([A-Z_]+)", lambda found: values.get(found[1], ""), text)
    return list(yaml.safe_load_all(text))


def build(project: Project, name: str) -> dict[str, Any]:
    (document,) = documents(project, name)
    return document


def delivered(step: dict[str, Any]) -> str | None:
    """Return which step of deliver.sh this one calls."""
    match step.get("args"):
        case ["deploy/deliver.sh", *words]:
            return " ".join(words)
    return None


def smoke_tests(project: Project) -> dict[str, str]:
    """Return the step of deliver.sh that ends a rollout, by environment."""
    profiles = build(project, "skaffold.yaml")["profiles"]
    containers = {p["name"]: p["verify"][0]["container"] for p in profiles}
    assert all(container["command"] == ["bash"] for container in containers.values())
    return {name: delivered(container) or "" for name, container in containers.items()}


def chain(project: Project) -> Iterator[str]:
    """Give the steps from a commit to production: Cloud Build's, and Cloud Deploy's after each."""
    after = smoke_tests(project)
    for step in build(project, "cloudbuild-cd.yaml")["steps"]:
        if called := delivered(step):
            yield called
            if called.startswith("deploy "):
                yield after[called.removeprefix("deploy ")]


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_is_one_that_the_service_takes(google: Project, name: str) -> None:
    document = build(google, name)
    ParseDict(document, Build.pb()())
    text = (google.path / "deploy/google" / name).read_text("utf-8")
    declared = set(document["substitutions"])
    assert cloudbuild.references(text) - set(cloudbuild.BUILT_IN) == declared
    assert "_BASE_BRANCH" not in text or name == "cloudbuild.yaml"  # of pull requests alone
    secrets = document.get("availableSecrets", {}).get("secretManager", [])
    used = {name for step in document["steps"] for name in step.get("secretEnv", [])}
    assert used == {secret["env"] for secret in secrets}


def test_a_fault_in_a_build_is_seen(google: Project) -> None:
    document = build(google, "cloudbuild.yaml")
    document["steps"][0]["entrypoints"] = "bash"
    with pytest.raises(Exception, match="entrypoints"):
        ParseDict(document, Build.pb()())
    assert cloudbuild.references("a $_B ${_C} $$_D") == {"_B", "_C"}


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_holds_no_logic(google: Project, name: str) -> None:
    for step in build(google, name)["steps"]:
        assert not {"script", "waitFor", "allowFailure", "allowExitCodes"} & step.keys()
        if step.get("entrypoint") == "bash":
            assert (google.path / step["args"][0]).is_file()
        else:
            assert step.get("entrypoint", "gcloud") == "gcloud"


def test_the_chain(each: Project) -> None:
    assert list(chain(each)) == CHAIN
    pull_request = [delivered(step) for step in build(each, "cloudbuild.yaml")["steps"]]
    assert [step for step in pull_request if step] == ["check", "test", "pipeline", "compare"]


@pytest.mark.parametrize("fails", [step for step in CHAIN if not step.startswith("smoke")])
def test_a_step_that_fails_stops_the_chain(google: Project, tmp_path: Path, fails: str) -> None:
    """With the real deliver.sh replaced by one that fails at one step."""
    script = tmp_path / "deploy/deliver.sh"
    script.parent.mkdir()
    script.write_text(f'[ "$*" != "{fails}" ] || exit 3\necho "$*" >> ran\n')
    document = build(google, "cloudbuild-cd.yaml")

    def do(step: cloudbuild.Step, _: list[str]) -> int:
        if delivered(step) is None:
            return 0
        return execute(step["entrypoint"], *step["args"], cwd=tmp_path).returncode

    cloudbuild.run(document, do)
    ran = (tmp_path / "ran").read_text().splitlines() if fails != "check" else []
    before = CHAIN[: CHAIN.index(fails)]
    assert ran == [step for step in before if not step.startswith("smoke")]


def test_secrets_reach_only_what_needs_them(google: Project) -> None:
    """A pull request's code, tests and training get none."""
    holders = {
        (name, step["id"])
        for name in BUILDS
        for step in build(google, name)["steps"]
        if step.get("secretEnv")
    }
    assert holders == {
        ("cloudbuild-cd.yaml", "gates"),
        ("cloudbuild-retrain.yaml", "retrain"),
        ("cloudbuild-monitor.yaml", "monitor"),
    }


def needs(project: Project) -> list[list[str]]:
    paths = sorted((project.path / "deploy/google").rglob("needs.txt"))
    lines = "\n".join(path.read_text("utf-8") for path in paths).splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_triggers(google: Project) -> None:
    triggers = documents(google, "triggers.yaml")
    wanted = {name for kind, name, *_ in needs(google) if kind == "trigger"}
    assert {t["name"] for t in triggers} == {f"{google.slug}-{name}" for name in wanted}
    accounts = {name for kind, name, *_ in needs(google) if kind == "account"}
    for trigger in triggers:
        ParseDict(trigger, BuildTrigger.pb()())
        path = trigger.get("filename") or trigger["gitFileSource"]["path"]
        declared = build(google, Path(path).name)["substitutions"]
        assert trigger.get("substitutions", {}).keys() <= declared.keys()
        account = re.search(r"/a-(\w+)@p\.iam", trigger["serviceAccount"])
        assert account
        assert account[1] in accounts
    (pulls,) = (t for t in triggers if "pullRequest" in t.get("repositoryEventConfig", {}))
    assert "substitutions" not in pulls
    assert pulls["repositoryEventConfig"]["pullRequest"]["commentControl"].startswith("COMMENTS")


def test_least_privilege(each: Project) -> None:
    roles = [words for kind, *words in needs(each) if kind == "role"]
    assert len({tuple(words) for words in roles}) == len(roles)
    wide = {r for _, r, _ in roles if re.search(r"/(owner|editor|viewer|.*[aA]dmin)$", r)}
    assert wide <= {"roles/run.admin"}  # cloud-run/needs.txt says why
    of = {account: {role for name, role, _ in roles if name == account} for account, _, _ in roles}
    assert of["ci"] == {"roles/logging.logWriter", "roles/storage.objectViewer"}
    project_wide = {(name, role) for name, role, place in roles if place == "project"}
    assert not [role for _, role in project_wide if "secret" in role or "serviceAccount" in role]
    named = {name for kind, name, *_ in needs(each) if kind in ("account", "secret")}
    for account, _, place in roles:
        assert account in named
        assert ":" not in place or place.partition(":")[2] in named


def test_cloud_deploy(each: Project) -> None:
    found = documents(each, "delivery.yaml")
    kinds = {"DeliveryPipeline": DeliveryPipeline, "Target": Target, "Automation": Automation}
    for document in found:
        body = {k: v for k, v in document.items() if k not in ("apiVersion", "kind", "metadata")}
        for rule in body.get("rules", []):  # gcloud's files say name, the API says id
            rule["repairRolloutRule"]["id"] = rule["repairRolloutRule"].pop("name")
        ParseDict(body, kinds[document["kind"]].pb()())
    pipeline, staging, production, automation = found
    targets = [staging["metadata"]["name"], production["metadata"]["name"]]
    assert [s["targetId"] for s in pipeline["serialPipeline"]["stages"]] == targets
    assert all(s["strategy"]["standard"]["verify"] for s in pipeline["serialPipeline"]["stages"])
    assert [t["id"] for t in automation["selector"]["targets"]] == targets
    assert production["requireApproval"]
    assert "requireApproval" not in staging


def test_skaffold_names_what_is_there(each: Project) -> None:
    folder = each.path / "deploy/google"
    for profile in build(each, "skaffold.yaml")["profiles"]:
        manifests, deploy = profile["manifests"], profile["deploy"]
        if "rawYaml" in manifests:
            assert deploy == {"cloudrun": {}}
            assert all((folder / path).is_file() for path in manifests["rawYaml"])
        else:
            assert deploy == {"kubectl": {}}
            (path,) = manifests["kustomize"]["paths"]
            assert (folder / path).resolve() in overlays(each)


def overlays(project: Project) -> set[Path]:
    return {path.parent for path in project.path.resolve().rglob("kustomization.yaml")}


def test_cloud_run(google: Project) -> None:
    wanted = {name for kind, name, *_ in needs(google) if kind == "secret"}
    for name in ("staging", "production"):
        service = build(google, f"cloud-run/{name}.yaml")
        template = service["spec"]["template"]
        (container,) = template["spec"]["containers"]
        secrets = {
            v["valueFrom"]["secretKeyRef"]["name"].removeprefix(f"{google.slug}-")
            for v in container["env"]
            if "valueFrom" in v
        }
        assert secrets == {"pgpassword", f"{name}-api-keys"}
        assert secrets <= wanted
        assert len(service["metadata"]["name"]) < 50
        assert container["image"] == google.slug
        assert container["startupProbe"]["httpGet"]["path"] == "/health/ready"
        text = (google.path / f"deploy/google/cloud-run/{name}.yaml").read_text("utf-8")
        used = set(re.findall(r"from-param: \$\{(\w+)\}", text))
        (target,) = (
            t
            for t in documents(google, "delivery.yaml")
            if t["metadata"]["name"] == f"{google.slug}-{name}"
        )
        assert used == set(target["deployParameters"])


def test_long_names_fit(bake: Bake) -> None:
    """Google allows 30 characters for an account, 49 for a service, 63 for a target."""
    project = bake(ci="google-cloud-build", project_slug="a" + "-b2c4e6g8i" * 4 + "-b2c4e6g8")
    assert len(project.slug) == 50
    text = (project.path / "deploy/google/settings.env").read_text("utf-8")
    (account,) = re.findall(r"^ACCOUNT=(.*)", text, re.M)
    longest = max(len(name) for kind, name, *_ in needs(project) if kind == "account")
    assert len(account) + 1 + longest <= 30
    for name in ("staging", "production"):
        service = build(project, f"cloud-run/{name}.yaml")["metadata"]["name"]
        assert len(service) <= 49
        assert not re.search("--", service)


def test_scripts_parse(each: Project, tmp_path: Path) -> None:
    for path in (each.path / "deploy/google").glob("*.sh"):
        done = execute("bash", "-n", path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_hadolint(google: Project) -> None:
    google.run("hadolint", "deploy/google/Dockerfile")


def test_when(google: Project, tmp_path: Path) -> None:
    script = google.path / "deploy/google/when.sh"
    command = ("bash", script, "decay", "sh", "-c", "echo ran; exit 7")
    assert execute(*command, cwd=tmp_path).returncode == 0
    (tmp_path / "build/delivery").mkdir(parents=True)
    (tmp_path / "build/delivery/decay").touch()
    done = execute(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, "ran\n")


def configured(project: Project, into: Path) -> Project:
    """Return a copy whose settings are filled in."""
    shutil.copytree(project.path, into / "p")
    for path in (into / "p/deploy/google").rglob("settings.env"):
        lines = [
            f"{name}={SETTINGS[name]}" if not value and name in SETTINGS else line
            for line in path.read_text("utf-8").splitlines()
            for name, _, value in [line.partition("=")]
        ]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return Project(into / "p", project.slug, project.package, "")


Gcloud = Callable[..., dict[str, str]]


@pytest.fixture
def gcloud(tmp_path: Path) -> Gcloud:
    """Return a function that makes a stand-in for gcloud, and gives the environment for it."""

    def make(script: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "gcloud").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        (folder / "gcloud").chmod(0o755)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    return make


IMAGE = "r/api@sha256:" + "0" * 64
RELEASE = {"RELEASE_NAME": "build-1", "TOOLS": "r/tools:1"}


def release(project: Project, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return project.run("sh", "deploy/google/release.sh", *words, env=env, check=False)


def test_a_release_goes_to_staging_and_waits(
    google: Project, gcloud: Gcloud, tmp_path: Path
) -> None:
    project = configured(google, tmp_path)
    env = gcloud('case "$*" in *"rollouts describe"*) echo SUCCEEDED ;; esac') | RELEASE
    done = release(project, env, "roll-out", IMAGE, "staging")
    assert (done.returncode, done.stdout) == (0, f"{IMAGE} runs in staging\n"), done.stderr
    busy, create, promote, _ = (tmp_path / "asked").read_text().splitlines()
    assert "rollouts list" in busy
    assert f"--images={google.slug}={IMAGE},tools=r/tools:1" in create
    assert f"--to-target={google.slug}-staging --rollout-id=build-1-to-staging" in promote


def test_production_waits_for_its_approval(google: Project, gcloud: Gcloud, tmp_path: Path) -> None:
    project = configured(google, tmp_path)
    done = release(project, gcloud("") | RELEASE, "roll-out", IMAGE, "production")
    assert done.returncode == 0
    assert "gcloud deploy rollouts approve build-1-to-production" in done.stdout
    assert "releases create" not in (tmp_path / "asked").read_text()  # it is the one of staging


@pytest.mark.parametrize(
    ("script", "words", "error"),
    [
        (
            'case "$*" in *failureReason*) echo VERIFY_FAILED ;; *describe*) echo FAILED ;; esac',
            ("roll-out", IMAGE, "staging"),
            f"roll-out: {IMAGE} was not released to staging: "
            "Cloud Deploy says FAILED: VERIFY_FAILED",
        ),
        (
            'case "$*" in *"rollouts list"*) echo build-0-to-staging IN_PROGRESS ;; esac',
            ("roll-out", IMAGE, "staging"),
            "roll-out: another release to staging is not finished: build-0-to-staging IN_PROGRESS",
        ),
        (
            "exit 1",
            ("roll-back", "production"),
            "roll-back: Cloud Deploy does not go back, see above; what runs in production runs on",
        ),
        ("exit 1", ("smoke", "staging"), "smoke: no service flight-delays-staging, see above"),
        (
            'case "$*" in *"jobs deploy"*) exit 1 ;; *describe*) echo https://x ;; esac',
            ("smoke", "staging"),
            "smoke: the API at https://x fails its smoke test: see the logs of the job "
            "flight-delays-staging-smoke",
        ),
    ],
)
def test_a_release_that_fails_says_so_in_one_line(
    google: Project, gcloud: Gcloud, tmp_path: Path, script: str, words: tuple[str, ...], error: str
) -> None:
    done = release(configured(google, tmp_path), gcloud(script) | RELEASE, *words)
    assert (done.returncode, done.stderr) == (1, f"error: {error}\n")


def test_nothing_is_asked_without_a_project(google: Project, gcloud: Gcloud) -> None:
    for script in ("release.sh", "setup.sh"):
        words = ("smoke", "staging") if script == "release.sh" else ()
        env = gcloud("exit 9")
        done = google.run("bash", f"deploy/google/{script}", *words, env=env, check=False)
        error = "error: PROJECT_ID is empty: set it in deploy/google/settings.env\n"
        assert (done.returncode, done.stderr) == (1, error)


HERE = Path(__file__).parent
FINDINGS = "from mlops_loop.onboarding.google import findings; print(*findings(), sep='\\n')"
EMPTY: dict[str, Any] = {"things": {}, "policies": {}, "values": [], "ran": []}


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    state = json.loads(path.read_text("utf-8"))
    edit(state)
    path.write_text(json.dumps(state), "utf-8")


def ran(path: Path) -> list[list[str]]:
    """Return the commands that the stand-in was given."""
    commands: list[list[str]] = json.loads(path.read_text("utf-8"))["ran"]
    return commands


def doctor(project: Project, env: dict[str, str]) -> list[str]:
    """Return what the doctor finds."""
    source = str(project.path / "packages/mlops-loop/src")
    named = json.dumps({"name": project.slug, "model": "m:build"})
    env = env | {"PYTHONPATH": source, "MLOPS_LOOP_PROJECT": named}
    done = project.run(shutil.which("python") or "python3", "-c", FINDINGS, env=env)
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.slow
def test_the_setup_creates_what_the_doctor_misses(
    google: Project, gcloud: Gcloud, tmp_path: Path
) -> None:
    project, state = configured(google, tmp_path), tmp_path / "state"
    state.write_text(json.dumps(EMPTY), "utf-8")
    env = gcloud(f'exec python3 -SEs {HERE}/gcloud_standin.py {state} "$@"')
    setup = ("bash", "deploy/google/setup.sh")

    # The repository is connected in a browser: until then, one line and nothing else.
    done = project.run(*setup, env=env, check=False)
    assert done.returncode == 1
    assert "error: Cloud Build does not know the repository" in done.stderr.splitlines()[-1]
    found = doctor(project, env)
    assert found[0] == "connection github is missing: see docs/google-cloud-build.md"
    wanted = {(kind, name) for kind, name, *_ in needs(google) if kind not in ("api", "role")}
    for kind, name in wanted:
        assert any(line.startswith(kind) and f"-{name} is missing: " in line for line in found)

    parts = {"builds connections": ["github"], "builds repositories": ["flights"]}
    change(state, lambda known: known["things"].update(parts))
    project.run(*setup, env=env)
    secrets = {f"{google.slug}-{name}" for kind, name in wanted if kind == "secret"}
    found = doctor(project, env)
    assert {line.split()[1] for line in found} == secrets
    assert all(" has no value: printf %s VALUE | gcloud secrets versions add " in x for x in found)
    change(state, lambda known: known.update(values=sorted(secrets)))
    assert doctor(project, env) == []

    change(state, lambda known: known.update(ran=[]))
    project.run(*setup, env=env)  # again: nothing is created twice
    assert not [argv for argv in ran(state) if "create" in argv]

    def break_it(known: dict[str, Any]) -> None:
        things = known["things"]
        things["services"].remove("cloudkms.googleapis.com")
        things["builds triggers"].remove("flight-delays-retrain")
        things["scheduler jobs"].remove("flight-delays-monitor")
        things["deploy targets"].remove("flight-delays-production")
        things["secrets"].remove("flight-delays-pgpassword")
        known["values"].remove("flight-delays-alert-urls")
        known["policies"]["kms keys sign"] = []

    change(state, break_it)
    # A secret that is gone takes with it who may read it.
    found = [line for line in doctor(project, env) if "secret:pgpassword" not in line]
    assert sorted(line.partition(" is missing")[0].partition(" has no")[0] for line in found) == [
        "api cloudkms.googleapis.com",
        "role roles/cloudkms.signerVerifier on key",
        "schedule flight-delays-monitor",
        "secret flight-delays-alert-urls",
        "secret flight-delays-pgpassword",
        "target flight-delays-production",
        "trigger flight-delays-retrain",
    ]


def test_the_doctor_names_empty_settings_first(google: Project, gcloud: Gcloud) -> None:
    found = doctor(google, gcloud("exit 9"))
    assert found[0] == "setting CLOUD_SQL is empty: set it in deploy/google/settings.env"
    assert len(found) == 5


REGION = "--region=europe-west1"


def real_gcloud() -> tuple[Path, Path]:
    """Return gcloud's Python and its library."""
    sdk = Path(need_program("gcloud")).resolve().parent.parent
    python = sdk / "platform/bundledpythonunix/bin/python3"
    if not python.exists():
        pytest.skip("gcloud is not installed with a Python of its own")
    return python, sdk / "lib"


@pytest.mark.slow
def test_the_real_gcloud_knows_every_command(
    google: Project, gcloud: Gcloud, tmp_path: Path
) -> None:
    """Those of setup.sh, release.sh, the doctor, the builds and the page."""
    python, lib = real_gcloud()
    project, state = configured(google, tmp_path), tmp_path / "state"
    parts = {"builds connections": ["github"], "builds repositories": ["flights"]}
    state.write_text(json.dumps(EMPTY | {"things": parts}), "utf-8")
    env = gcloud(f'exec python3 -SEs {HERE}/gcloud_standin.py {state} "$@"')
    project.run("bash", "deploy/google/setup.sh", env=env)
    doctor(project, env)
    commands = {" ".join(argv[:4]): argv for argv in ran(state)}  # one of each kind
    for name in BUILDS:
        for step in build(google, name)["steps"]:
            if "gcloud" in step["args"]:
                commands[step["id"]] = step["args"][step["args"].index("gcloud") + 1 :]
            elif step.get("entrypoint") == "gcloud":
                commands[step["id"]] = step["args"]
    log = tmp_path / "releases"
    answers = 'case "$*" in *"rollouts describe"*) echo SUCCEEDED ;; esac'
    env = gcloud(f'printf "%s\\n" "$*" >> {log}; {answers}') | RELEASE
    for words in (("roll-out", IMAGE, "staging"), ("roll-back", "staging"), ("smoke", "staging")):
        release(project, env, *words)
    page = (google.path / "docs/google-cloud-build.md").read_text("utf-8")
    lines = [line for line in log.read_text().splitlines() if "rollouts list" not in line]
    page = page.replace("INSTANCE", "instance")  # gcloud looks at this name
    lines += re.findall(r"^ +(?:printf .* \| )?gcloud (.*)", page, re.M)
    commands |= {line: shlex.split(line) for line in lines}
    commands["wrong"] = ["deploy", "apply", "--files=x"]
    env = {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true"}
    env |= {"CLOUDSDK_CORE_PROJECT": "p", "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"}
    text = json.dumps(list(commands.values()))
    script = HERE / "gcloud_once.py"
    done = execute(python, script, lib, "parse", cwd=tmp_path, input=text, env=env)
    assert done.returncode == 0, done.stderr
    results = dict(zip(commands, json.loads(done.stdout), strict=True))
    assert results.pop("wrong")[0] == 2
    refused = [f"{name}: {said.strip()[:300]}" for name, (code, said) in results.items() if code]
    assert not refused, "\n".join(refused)
    assert len(results) > 40


@pytest.mark.slow
def test_the_real_gcloud_takes_the_files(google: Project, tmp_path: Path) -> None:
    """Against a stand-in for the APIs on loopback."""
    python, lib = real_gcloud()
    for name in ("triggers.yaml", "delivery.yaml"):
        with (tmp_path / name).open("w") as file:
            yaml.safe_dump_all(documents(google, name), file)
    release_script = (google.path / "deploy/google/release.sh").read_text("utf-8")
    assert "--sort-by=createTime" in release_script
    rollouts = ("deploy", "rollouts", "list", "--release=-", f"--delivery-pipeline={google.slug}")
    targets_listed = ("deploy", "targets", "list", "--flatten=targets[]")
    commands = [
        ["builds", "triggers", "import", f"--source={tmp_path}/triggers.yaml", REGION],
        ["builds", "triggers", "list", REGION, "--format=value(name)"],
        ["deploy", "apply", f"--file={tmp_path}/delivery.yaml", REGION],
        [*targets_listed, REGION, "--format=value(targets.name.basename())"],
        [*rollouts, REGION, "--filter=targetId=x AND state:(PENDING)", "--sort-by=createTime"],
        ["deploy", "targets", "lists"],
    ]
    with google_cloud() as (cloud, env):
        env |= {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_PROJECT": "p"}
        script = HERE / "gcloud_once.py"
        done = execute(python, script, lib, cwd=tmp_path, input=json.dumps(commands), env=env)
    assert done.returncode == 0, done.stderr
    *results, wrong = json.loads(done.stdout)
    assert [code for code, _ in results] == [0] * len(results), results
    assert wrong[0] == 2
    names = {f"{google.slug}-{name}" for name in ("ci", "cd", "monitor", "retrain")}
    assert set(results[1][1].split()) == names
    targets = {f"{google.slug}-{name}" for name in ("staging", "production")}
    assert set(results[3][1].split()) == targets
    trigger = cloud.things[f"{WHERE}/triggers/{google.slug}-retrain"]
    assert trigger["gitFileSource"]["path"] == "deploy/google/cloudbuild-retrain.yaml"
    production = cloud.things[f"{WHERE}/targets/{google.slug}-production"]
    assert production["requireApproval"] is True
    back = cloud.things[f"{WHERE}/deliveryPipelines/{google.slug}/automations/back"]
    assert back["rules"][0]["repairRolloutRule"]["repairPhases"] == [{"rollback": {}}]


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_a_pull_request_in_containers(bake: Bake, tmp_path: Path) -> None:
    """Run the first steps of cloudbuild.yaml for real: green, and red once something is unused."""
    need_engine()
    project = bake(ci="google-cloud-build", lock=True)
    text = (project.path / "deploy/google/Dockerfile").read_text("utf-8")
    for name in re.findall(r"^ARG \w+_IMAGE=(.*)", text, re.M):
        need_image(name)
    clone = tmp_path / "workspace"
    project.run("git", "clone", "--quiet", project.path.as_uri(), clone)
    cache = project.run("uv", "cache", "dir").stdout.strip()
    volumes = ("--volume", f"{clone}:/workspace", "--volume", f"{cache}:/builder/home/.cache/uv")
    # Of a mounted cache nothing can be linked but by name.
    home = ("--env", "HOME=/builder/home", "--env", "UV_LINK_MODE=symlink")
    said: list[str] = []

    def do(step: cloudbuild.Step, env: list[str]) -> int:
        if "cloud-builders" in step["name"]:  # Google's own: the program of that name
            command = [step["name"].rpartition("/")[2], *step["args"]]
        else:
            command = ["docker", "run", "--rm", "--network", "host", *volumes, *home]
            command += [part for line in env for part in ("--env", line)]
            command += ["--workdir", "/workspace", "--entrypoint", step["entrypoint"]]
            command += [step["name"], *step["args"]]
        done = execute(*command, cwd=clone, timeout=1800)
        said.append(f"{step['id']}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.returncode

    tools = f"google-test/tools:{os.getpid()}"
    document = build(project, "cloudbuild.yaml")
    first = document | {"steps": document["steps"][:3]}
    try:
        assert cloudbuild.run(first, do, _TOOLS=tools) == ["tools", "base", "check"], said
        module = clone / "src" / project.package / "ingest.py"
        module.write_text(f"import json\n{module.read_text('utf-8')}", "utf-8")
        assert cloudbuild.run(document, do, _TOOLS=tools) == ["tools", "base"], said
        assert "F401" in said[-1]
    finally:
        docker("image", "rm", "--force", tools, check=False)
