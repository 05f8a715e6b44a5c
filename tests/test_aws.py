"""Delivery on AWS: templates and buildspecs are valid, roles small, and a refusal stops it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import codebuild
import pytest
import yaml
from answers import AnyTag
from conftest import TEMPLATE, Bake, Project, copy, execute
from containers import docker, need_engine
from tools import need_program

CHAIN = ["check", "test", "pipeline", "gates", "build", "scan", "sbom", "sign", "push"]
# What checkov asks and these templates do not do, and why.
NOT_HERE = {
    "CKV_AWS_18": "access logs of the bucket would need a second bucket; CloudTrail has them",
    "CKV_AWS_51": "tags are immutable, but for those that cosign adds to: its sha256-*",
    "CKV_AWS_91": "access logs of the load balancer would need a bucket; the API logs each request",
    "CKV_AWS_118": "enhanced monitoring costs extra and needs a role; Performance Insights is on",
    "CKV_AWS_149": "a key of one's own would have to be readable for all who read the password",
    "CKV_AWS_157": "production has Multi-AZ; checkov does not evaluate Fn::If",
}
IGNORED = ("W1030",)  # cfn-lint: the default "" of a list of ids, which a condition keeps unused
# Actions that know no resources: AWS demands "*".
ONLY_WITH_STAR = {"ecr:GetAuthorizationToken"} | {
    f"ec2:Describe{what}"
    for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
}
# Whole sets of actions that each role may need, beside its shared policies.
SERVICES = {
    "CheckRole": set[str](),
    "BuildRole": {"ecr", "s3", "secretsmanager"},
    "MonitorRole": {"codebuild"},
    "RetrainRole": {"codepipeline", "s3"},
    "PipelineRole": {"codebuild", "codeconnections", "kms", "s3", "sns"},
    "SchedulerRole": {"codebuild", "kms"},
}


@pytest.fixture(scope="module")
def ecs(bake: Bake) -> Project:
    return bake(ci="aws-codepipeline")


@pytest.fixture(scope="module")
def eks(bake: Bake) -> Project:
    return bake(ci="aws-codepipeline", platform="kubernetes")


@pytest.fixture(params=["ecs", "eks"])
def project(request: pytest.FixtureRequest) -> Project:
    found: Project = request.getfixturevalue(request.param)
    return found


def load(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), AnyTag)


def templates(project: Project) -> list[Path]:
    found = sorted((project.path / "deploy/aws").glob("*.yaml"))
    return [path for path in found if "AWSTemplateFormatVersion" in path.read_text("utf-8")]


def buildspec(project: Project, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(project.path / f"deploy/aws/buildspec-{name}.yml")
    return spec


def test_each_target_has_its_files(ecs: Project, eks: Project, rendered: Project) -> None:
    def names(project: Project) -> set[str]:
        return {path.name for path in (project.path / "deploy/aws").rglob("*")}

    both = {f"buildspec-{n}.yml" for n in ("build", "check", "deploy", "monitor", "retrain")}
    both |= {"buildspec-roll-back.yml", "database.yaml", "pipeline.yaml", "target.yaml"}
    assert names(ecs) == both | {"release.sh"}
    assert names(eks) == both | {"access.yaml"}
    assert not (rendered.path / "deploy/aws").exists()
    assert not (rendered.path / "docs/aws-codepipeline.md").exists()


def test_buildspecs_are_valid(project: Project) -> None:
    schema = TEMPLATE / "tests/data/buildspec.schema.json"
    found = sorted((project.path / "deploy/aws").glob("buildspec-*.yml"))
    assert len(found) == 6
    project.run("check-jsonschema", "--schemafile", schema, *found)


@pytest.mark.slow
def test_templates_are_valid(project: Project) -> None:
    found = templates(project)
    assert [path.stem for path in found] == ["database", "pipeline", "target"]
    project.run("cfn-lint", "--ignore-checks", *IGNORED, "--", *found)
    for path in found:  # CloudFormation knows no YAML aliases
        assert not re.search(r"(:|-) [&*]\w+\s*$", path.read_text("utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ecs", "eks"])
def test_checkov_finds_nothing_else(request: pytest.FixtureRequest, which: str) -> None:
    """In an environment of its own: checkov pins old versions of boto3 and networkx."""
    project: Project = request.getfixturevalue(which)
    config = (TEMPLATE / "pyproject.toml").read_text("utf-8")
    (day,) = re.findall(r'^exclude-newer = "(.*)"', config, re.MULTILINE)
    command = "uv", "tool", "run", "--from", "checkov>=3.2", "checkov", "--framework"
    options = "cloudformation", "--compact", "--quiet", "--skip-download", "--output", "json"
    done = execute(
        *[*command, *options, "--file", *map(str, templates(project))],
        cwd=project.path,
        timeout=1500,
        env={"UV_EXCLUDE_NEWER": day},
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 90
    found = {check["check_id"] for check in report["results"]["failed_checks"]}
    assert found <= set(NOT_HERE)


# Who may do what


def statements(node: Any) -> Iterator[dict[str, Any]]:
    """Give each statement that allows something, wherever it is in a template."""
    if isinstance(node, list):
        for each in node:
            yield from statements(each)
    elif isinstance(node, dict):
        if node.get("Effect") == "Allow":
            yield node
        for each in node.values():
            yield from statements(each)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_role_may_do_more_than_is_listed(project: Project) -> None:
    for path in templates(project):
        resources = load(path)["Resources"]
        for name, resource in resources.items():
            properties = resource["Properties"]
            if resource["Type"] == "AWS::KMS::Key":  # its policy: the account keeps the key
                continue
            for statement in statements(properties):
                actions = set(listed(statement["Action"]))
                assert not [action for action in actions if "*" in action], name
                if "Resource" in statement and "*" in listed(statement["Resource"]):
                    assert actions <= ONLY_WITH_STAR, name
            managed = json.dumps(properties.get("ManagedPolicyArns", []))
            assert "AdministratorAccess" not in managed
            assert "FullAccess" not in managed


def test_each_role_has_its_services_only(ecs: Project) -> None:
    resources = load(ecs.path / "deploy/aws/pipeline.yaml")["Resources"]
    roles = {name: r for name, r in resources.items() if r["Type"] == "AWS::IAM::Role"}
    assert set(roles) == set(SERVICES)
    for name, role in roles.items():
        own = statements(role["Properties"].get("Policies", []))
        actions = [action for each in own for action in listed(each["Action"])]
        assert {action.partition(":")[0] for action in actions} == SERVICES[name], name


def test_a_pull_request_gets_no_secret(ecs: Project) -> None:
    spec = buildspec(ecs, "check")
    assert set(spec["env"]) == {"shell"}
    role = load(ecs.path / "deploy/aws/pipeline.yaml")["Resources"]["CheckRole"]["Properties"]
    assert "Policies" not in role
    assert "HistoryPolicy" not in json.dumps(role)


# What moto really makes: it skips CodeBuild, CodePipeline and others, and says nothing of it


@contextmanager
def moto() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.slow
def test_moto_creates_what_it_knows(ecs: Project) -> None:
    """Of the pipeline: bucket, images and roles, with their policies in place."""
    boto3 = pytest.importorskip("boto3")
    parameters = {
        "ConnectionArn": "arn:aws:codeconnections:eu-west-1:123456789012:connection/1-2",
        "Repository": "team/flight-delays",
        "DvcBucket": "data",
    }
    with moto() as url:

        def client(name: str) -> Any:
            keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
            return boto3.client(
                name, endpoint_url=url, region_name="eu-west-1", verify=False, **keys
            )

        names = [f"{env}-deploy-role{k}" for env in ("staging", "production") for k in ("", "-arn")]
        outputs = {
            f"O{number}": {"Value": "x", "Export": {"Name": f"flight-delays-{name}"}}
            for number, name in enumerate(names)
        }
        target = {"Resources": {"T": {"Type": "AWS::SNS::Topic"}}, "Outputs": outputs}
        stacks = client("cloudformation")
        stacks.create_stack(StackName="target", TemplateBody=json.dumps(target))
        text = (ecs.path / "deploy/aws/pipeline.yaml").read_text("utf-8")
        text = re.sub(r"\n      Roles:\n(        - .*\n)+", "\n", text)  # of the other stack
        stacks.create_stack(
            StackName="delivery",
            TemplateBody=text,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
        (repository,) = client("ecr").describe_repositories()["repositories"]
        assert repository["repositoryName"] == "flight-delays/api"
        assert len(client("s3").list_buckets()["Buckets"]) == 1
        roles = {role["RoleName"] for role in client("iam").list_roles()["Roles"]}
        assert len([role for role in roles if role.startswith("delivery-")]) == len(SERVICES)


# The phases, run in a real container; deliver.sh and the programs around it are recorded

RECORDS = '#!/bin/bash\necho "$(basename "$0")" "$@" >>/record\n'


def run_in_container(
    project: Project, folder: Path, name: str, fail: str = "", touch: str = ""
) -> tuple[int, list[str]]:
    """Run a buildspec; return its exit code, and the steps of deliver.sh and calls of aws."""
    spec = buildspec(project, name)
    stored = dict.fromkeys((spec["env"].get("parameter-store") or {}).values(), "x")
    stored |= dict.fromkeys((spec["env"].get("secrets-manager") or {}).values(), "x")
    given = {"ENVIRONMENT": "staging", "IMAGE_NAME": "r.example/i", "PIPELINE": "p", "RETRAIN": "r"}
    given |= {"DVC_REMOTE": "store", "CODEBUILD_BUILD_ID": "b:1"}
    bin_, source = folder / "bin", folder / "source"
    bin_.mkdir(parents=True)
    (source / "deploy").mkdir(parents=True)
    for program in ("aws", "docker", "python", "uv", "go", "curl", "sha256sum", "install"):
        (bin_ / program).write_text(RECORDS, "utf-8")
        (bin_ / program).chmod(0o755)
    step = f'echo deliver "$@" >>/record; mkdir -p build/delivery; {touch or ":"}\n'
    step += f'[ "$*" != {json.dumps(fail)} ] || exit 3\n'
    (source / "deploy/deliver.sh").write_text(step, "utf-8")
    (folder / "run").write_text(codebuild.script(spec, stored, **given), "utf-8")
    container = f"aws-{folder.name}".lower().replace("[", "-").strip("-]")
    command = "PATH=/bin-of-test:$PATH; cd /source && bash /run_; code=$?; cat /record; exit $code"
    done = execute(
        *("docker", "create", "--name", container, "python:3.12-slim", "bash", "-c", command),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    try:
        for path, to in ((bin_, "/bin-of-test"), (source, "/source"), (folder / "run", "/run_")):
            docker("cp", path, f"{container}:{to}")
        ran = execute("docker", "start", "--attach", container, cwd=folder)
    finally:
        docker("rm", "--force", container)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("deliver", "aws", "uv"))]
    return ran.returncode, lines


def chain(lines: list[str]) -> list[str]:
    return [line.removeprefix("deliver ") for line in lines if line.startswith("deliver ")]


def steps(project: Project, name: str) -> list[str]:
    commands = buildspec(project, name)["phases"]["build"]["commands"]
    found = [re.fullmatch(r"bash deploy/deliver\.sh (.*)", command) for command in commands]
    return [step[1].replace('"$ENVIRONMENT"', "staging") for step in found if step]


def test_buildspecs_hold_no_logic(project: Project) -> None:
    assert steps(project, "build") == CHAIN
    assert steps(project, "check") == ["check", "test", "pipeline", "compare"]
    assert steps(project, "deploy") == ["deploy staging", "smoke staging"]
    assert steps(project, "roll-back") == ["roll-back staging", "smoke staging"]
    for path in (project.path / "deploy/aws").glob("buildspec-*.yml"):
        commands = [c for phase in load(path)["phases"].values() for c in phase["commands"]]
        for command in commands:
            assert not re.search(r"\b(if|for|while|case)\b|\bset \+e|\|\| true", command)


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize(
    ("which", "name"),
    [
        *(("ecs", name) for name in ("check", "build", "deploy", "roll-back")),
        *(("eks", name) for name in ("deploy", "roll-back")),  # the others are the same files
    ],
)
def test_each_gate_stops_the_chain(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, which: str
) -> None:
    """The commands in their order; then with each step saying no in its turn."""
    need_engine()
    project: Project = request.getfixturevalue(which)
    expected = steps(project, name)
    code, lines = run_in_container(project, tmp_path / f"{which}-{name}", name)
    assert (code, chain(lines)) == (0, expected)
    for number, step in enumerate(expected):
        folder = tmp_path / f"{which}-{name}-{number}"
        code, lines = run_in_container(project, folder, name, fail=step)
        assert (code, chain(lines)) == (1, expected[: number + 1])


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_what_starts_what(ecs: Project, tmp_path: Path) -> None:
    """Decay starts the retraining, a new champion its delivery; a crash starts nothing."""
    need_engine()
    decay, promoted = "touch build/delivery/decay", "touch build/delivery/promoted"
    start = "aws codebuild start-build --project-name r --environment-variables-override"
    deliver = "aws codepipeline start-pipeline-execution --name p --variables"
    for number, (name, touch, fail, code, expected) in enumerate(
        [
            ("monitor", "", "", 0, []),
            ("monitor", decay, "", 0, [f"{start} name=REASON,value=decay in b:1"]),
            ("monitor", decay, "monitor", 1, []),
            ("retrain", "", "", 0, []),
            (
                "retrain",
                promoted,
                "",
                0,
                [f"{deliver} name=DELIVER,value=champion", "uv run dvc push --remote store"],
            ),
            ("retrain", promoted, "retrain", 1, []),
        ]
    ):
        ended, lines = run_in_container(ecs, tmp_path / f"w{number}", name, fail, touch)
        started = [line for line in lines if line.startswith(("aws", "uv "))]
        assert (ended, started) == (code, expected), (name, touch, fail)


def test_a_missing_secret_ends_a_build_before_its_first_command(ecs: Project) -> None:
    done = execute("bash", "-c", codebuild.script(buildspec(ecs, "build"), {}), cwd=ecs.path)
    assert done.returncode == 1
    assert done.stderr == "/flight-delays/mlflow-tracking-uri is missing\n"


# Releases on ECS, against a stand-in for aws that keeps the stack's parameters

AWS = r"""#!/usr/bin/env python3
import json, os, sys
path = os.environ["STATE"]
state = json.load(open(path))
words = sys.argv[1:]
query = words[words.index("--query") + 1] if "--query" in words else ""
def end(code=0, said="", error=""):
    json.dump(state, open(path, "w"))
    if said: print(said)
    if error: print("\n" + error, file=sys.stderr)
    sys.exit(code)
match words[:2]:
    case ["cloudformation", "describe-stacks"]:
        if "ParameterKey=='" in query:
            end(said=state["parameters"].get(query.split("'")[1]) or "")
        end(said="\t".join(state["parameters"]))
    case ["cloudformation", "update-stack"]:
        if state.get("busy"):
            end(254, error="An error occurred (ValidationError): is in UPDATE_IN_PROGRESS state")
        given = dict(word.split(",", 1) for word in words if word.startswith("ParameterKey="))
        set_ = {k: v.split("=", 1)[1] for k, v in given.items() if v.startswith("ParameterValue=")}
        new = {k.split("=", 1)[1]: v for k, v in set_.items()}
        state["before"] = dict(state["parameters"])
        if all(state["parameters"][k] == v for k, v in new.items()):
            end(254, error="An error occurred (ValidationError): No updates are to be performed.")
        state["parameters"].update(new)
        state["log"].append(new["Image"])
        end()
    case ["cloudformation", "wait"]:
        sick = state["parameters"]["Image"] in state.get("sick", [])
        if words[2] == "stack-update-complete" and sick:
            state["parameters"] = state["before"]
            end(255, error="Waiter StackUpdateComplete failed")
        end()
    case ["cloudformation", "describe-stack-events"]:
        end(said="ECS Deployment Circuit Breaker was triggered")
    case ["ecs", "describe-services"]:
        end(said='["definition:1", {"awsvpcConfiguration": {"subnets": ["s"]}}]')
    case ["ecs", "run-task"]:
        state["asked"] = json.loads(words[words.index("--overrides") + 1])
        end(said="arn:task/1")
    case ["ecs", "describe-tasks"]:
        end(said="1" if state["parameters"]["Image"] in state.get("mute", []) else "0")
    case ["ecs", "wait"]:
        end()
end(1, error=f"unexpected: {words}")
"""
ONE, TWO = (f"r.example/flight-delays/api@sha256:{digit * 64}" for digit in "12")


def release(
    ecs: Project, folder: Path, *words: str, image: str = "", previous: str = "", **state: Any
) -> tuple[int, str, dict[str, Any]]:
    need_program("jq", "jq")
    (folder / "aws").write_text(AWS, "utf-8")
    (folder / "aws").chmod(0o755)
    parameters = {"HostName": "api.example", "Image": image, "PreviousImage": previous}
    document = {"parameters": parameters, "log": [], **state}
    (folder / "state").write_text(json.dumps(document), "utf-8")
    done = execute(
        *["sh", str(ecs.path / "deploy/aws/release.sh"), *words],
        cwd=folder,
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "STATE": str(folder / "state")},
    )
    said = done.stdout if done.returncode == 0 else done.stderr
    assert len(said.splitlines()) == 1 or done.returncode == 0, said
    return done.returncode, said.strip(), json.loads((folder / "state").read_text("utf-8"))


def test_a_release_runs_and_answers(ecs: Project, tmp_path: Path) -> None:
    code, said, state = release(ecs, tmp_path, "roll-out", TWO, "staging", image=ONE)
    assert (code, said) == (0, f"{TWO} runs in flight-delays-staging")
    assert state["parameters"] == {"HostName": "api.example", "Image": TWO, "PreviousImage": ONE}
    (override,) = state["asked"]["containerOverrides"]
    assert override["command"] == ["flight-delays", "smoke", "https://api.example"]


@pytest.mark.parametrize("image", [ONE, ""])
@pytest.mark.parametrize(
    ("trouble", "says"),
    [("sick", "Circuit Breaker was triggered"), ("mute", "the smoke test ended with 1")],
)
def test_what_ran_before_runs_again(
    ecs: Project, tmp_path: Path, trouble: str, says: str, image: str
) -> None:
    """Whether it never becomes healthy, or is healthy and does not answer."""
    command = "roll-out", TWO, "production"
    more: dict[str, Any] = {trouble: [TWO]}
    code, said, state = release(ecs, tmp_path, *command, image=image, **more)
    assert code == 1
    assert said.startswith(f"error: {TWO} was not released")
    assert says in said
    assert said.endswith(f"{image or 'nothing'} runs, as before")
    assert state["parameters"]["Image"] == image


def test_one_release_at_a_time(ecs: Project, tmp_path: Path) -> None:
    code, said, state = release(ecs, tmp_path, "roll-out", TWO, "staging", image=ONE, busy=True)
    assert (code, state["log"]) == (1, [])
    assert said == "error: another release in flight-delays-staging runs: wait for its end"


def test_the_way_back(ecs: Project, tmp_path: Path) -> None:
    code, said, state = release(ecs, tmp_path, "roll-back", "staging", image=TWO, previous=ONE)
    assert (code, said) == (0, f"{ONE} runs in flight-delays-staging")
    assert state["parameters"]["PreviousImage"] == ""
    code, said, state = release(ecs, tmp_path, "roll-back", "staging", image=TWO)
    assert (code, state["log"]) == (1, [])
    assert said.startswith("error: nothing to go back to")


@pytest.mark.parametrize(
    "words",
    [(), ("roll-out", ONE), ("smoke",), ("smoke", "nowhere"), ("roll-back", "staging", "x")],
)
def test_wrong_usage_of_release(ecs: Project, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert release(ecs, tmp_path, *words)[0] == 2


def test_only_a_digest_says_what_runs(ecs: Project, tmp_path: Path) -> None:
    code, said, _ = release(ecs, tmp_path, "roll-out", "r.example/api:latest", "staging")
    assert (code, "is no image by its digest" in said) == (1, True)


# doctor --ci, against a stand-in for aws: the service itself cannot be reached from here

ASKED = r"""#!/usr/bin/env python3
import json, os, sys
there = json.load(open(os.environ["THERE"]))
words = sys.argv[1:]
def no(code):
    print(f"\nAn error occurred ({code}) when calling it: what was asked", file=sys.stderr)
    sys.exit(254)
match words[1]:
    case "get-caller-identity":
        if there.get("away"): no("ExpiredToken")
        answer = {}
    case "list-connections": answer = {"Connections": there["connections"]}
    case "list-exports": answer = {"Exports": [{"Name": name} for name in there["exports"]]}
    case "describe-stacks":
        if words[3] not in there["stacks"]: no("ValidationError")
        answer = {}
    case "get-parameter":
        if words[3] not in there["parameters"]: no("ParameterNotFound")
        answer = {}
    case "get-secret-value":
        if words[3] not in there["secrets"]: no("ResourceNotFoundException")
        answer = {"SecretString": there["secrets"][words[3]]}
print(json.dumps(answer))
"""
EMPTY: dict[str, Any] = {
    "connections": [],
    "exports": [],
    "stacks": [],
    "parameters": [],
    "secrets": {},
}
KEYS = {
    "delivery": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "NETRC", "ALERT_URLS"],
    "signing": ["COSIGN_PRIVATE_KEY", "COSIGN_PASSWORD"],
    "staging/api": ["API_KEYS", "PII_KEY"],
    "production/api": ["API_KEYS", "PII_KEY"],
    "staging/database": ["password"],
    "production/database": ["password"],
}
ALL: dict[str, Any] = {
    "connections": [{"ConnectionName": "c", "ConnectionStatus": "AVAILABLE"}],
    "exports": [f"flight-delays-{env}-deploy-role" for env in ("staging", "production")],
    "stacks": ["flight-delays-delivery"],
    "parameters": [
        "/flight-delays/mlflow-tracking-uri",
        "/flight-delays/staging/prediction-log-url",
        "/flight-delays/production/prediction-log-url",
    ],
    "secrets": {
        f"flight-delays/{name}": json.dumps(dict.fromkeys(keys, "s3cret"))
        for name, keys in KEYS.items()
    },
}


@pytest.fixture(scope="module")
def asked(ecs: Project, installed: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return an installed project whose files of AWS, and the module that asks, are there."""
    project = copy(installed, tmp_path_factory.mktemp("asked"))
    module = "packages/mlops-loop/src/mlops_loop/onboarding/aws.py"
    shutil.copytree(ecs.path / "deploy/aws", project.path / "deploy/aws")
    shutil.copy(ecs.path / module, project.path / module)
    shutil.rmtree(project.path / ".github")
    return project


def doctor(project: Project, folder: Path, there: dict[str, Any]) -> tuple[int, list[str], str]:
    (folder / "aws").write_text(ASKED, "utf-8")
    (folder / "aws").chmod(0o755)
    (folder / "there").write_text(json.dumps(there), "utf-8")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "THERE": str(folder / "there")}
    done = project.uv(project.slug, "doctor", "--ci", check=False, env=env)
    assert "s3cret" not in done.stdout + done.stderr
    found = [line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if "  aws " in line]
    return done.returncode, found, done.stderr


@pytest.mark.slow
def test_doctor_names_what_is_missing(asked: Project, tmp_path: Path) -> None:
    (asked.path / "deploy/cosign.pub").unlink(missing_ok=True)
    code, found, _ = doctor(asked, tmp_path, EMPTY)
    assert code == 3
    named = {line.partition(": ")[0] for line in found}
    assert named == {
        *(f"secret {name}" for name in ALL["secrets"]),
        *(f"parameter {name}" for name in ALL["parameters"]),
        *(f"role {name}" for name in ALL["exports"]),
        *(f"stack {name}" for name in ALL["stacks"]),
        "connection",
        "key deploy/cosign.pub",
    }
    (asked.path / "deploy/cosign.pub").touch()
    code, found, said = doctor(asked, tmp_path, ALL)
    assert (code, found) == (0, []), said


@pytest.mark.slow
def test_doctor_names_a_pending_connection_and_a_missing_key(
    asked: Project, tmp_path: Path
) -> None:
    (asked.path / "deploy/cosign.pub").touch()
    there = ALL | {"connections": [{"ConnectionName": "c", "ConnectionStatus": "PENDING"}]}
    there["secrets"] = ALL["secrets"] | {"flight-delays/signing": '{"COSIGN_PASSWORD": "s3cret"}'}
    code, (connection, key), _ = doctor(asked, tmp_path, there)
    assert code == 3
    assert connection.startswith("connection c: PENDING: confirm it in the console")
    assert key.startswith("secret flight-delays/signing: has no key COSIGN_PRIVATE_KEY")


@pytest.mark.slow
def test_doctor_says_if_it_may_not_ask(asked: Project, tmp_path: Path) -> None:
    code, found, said = doctor(asked, tmp_path, EMPTY | {"away": True})
    assert (code, found) == (1, [])
    assert "AWS cannot be asked" in said
    assert len(said.splitlines()) == 1
