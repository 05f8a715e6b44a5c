"""The steps from a commit to production: the same, in the same order, on each CI system."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from answers import AnyTag, Projects, all_projects
from conftest import QUESTIONS

# All projects of all answers take twenty seconds to render.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("answers")]

# What a commit on the main branch goes through. The approval is the CI system's own.
STEPS = ["check", "test", "pipeline", "gates", "build", "scan", "sbom", "sign", "push"]
STEPS += ["deploy staging", "smoke staging", "approve", "deploy production", "smoke production"]
# And a pull request.
CHECKS = ["check", "test", "pipeline", "compare"]

CALL = re.compile(r"deploy/deliver\.sh[ \t]+([\w-]+)(?:[ \t]+[\"']?(\$?{{?[^}]*}}?|[\w$-]+))?")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    return all_projects(tmp_path_factory)


def load(path: Path) -> Any:
    """Return the only document of a file."""
    return yaml.load(path.read_text("utf-8"), AnyTag)


def calls(script: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the steps that a script calls, with the environment where there is one."""
    for name, value in variables.items():
        script = re.sub(rf"\${{?{name}\b}}?", value.replace("\\", r"\\"), script)
    for step, environment in CALL.findall(script):
        yield f"{step} {environment}" if step in {"deploy", "smoke", "roll-back"} else step


def once(steps: Iterator[str]) -> list[str]:
    """Return the steps in their order, each where it comes first."""
    return list(dict.fromkeys(steps))


def in_order(jobs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a workflow's jobs, each after those that it needs."""
    done: set[str] = set()
    while done != jobs.keys():
        ready = [
            name
            for name, job in jobs.items()
            if name not in done and done.issuperset(listed(job.get("needs")))
        ]
        assert ready, "the jobs wait for each other"
        for name in ready:
            yield name, jobs[name]
        done.update(ready)


def listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def in_workflow(path: Path) -> Iterator[str]:
    """What a workflow calls, unless a step fails. An environment's reviewers are the approval."""
    workflow = load(path)
    for _, job in in_order(workflow["jobs"]):
        environment = job.get("environment", "")
        environment = environment if isinstance(environment, str) else environment["name"]
        if environment == "production":
            yield "approve"
        variables = workflow.get("env", {}) | job.get("env", {})
        for step in job.get("steps", []):
            if "failure()" not in str(step.get("if")):
                own = {k: str(v) for k, v in (variables | step.get("env", {})).items()}
                yield from calls(step.get("run", ""), own)


def on_github(project: Path, push: bool) -> Iterator[str]:
    return in_workflow(project / ".github/workflows" / ("cd.yml" if push else "ci.yml"))


def on_google(project: Path, push: bool) -> Iterator[str]:
    """What a trigger starts, and what Cloud Deploy does with its release."""
    folder = project / "deploy/google"
    after = dict(by_cloud_deploy(folder))
    for step in load(folder / ("cloudbuild-cd.yaml" if push else "cloudbuild.yaml"))["steps"]:
        for call in calls(" ".join([*step.get("args", []), step.get("script", "")]), {}):
            before, later = after.get(call.partition(" ")[2], ([], []))
            yield from (*before, call, *later)


def by_cloud_deploy(folder: Path) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
    """Yield each environment, and what comes before and after a rollout there."""
    documents = list(yaml.load_all((folder / "delivery.yaml").read_text("utf-8"), AnyTag))
    (pipeline,) = (each for each in documents if each["kind"] == "DeliveryPipeline")
    targets = {each["metadata"]["name"]: each for each in documents if each["kind"] == "Target"}
    profiles = {each["name"]: each for each in load(folder / "skaffold.yaml")["profiles"]}
    for stage in pipeline["serialPipeline"]["stages"]:
        (environment,) = stage["profiles"]
        approved = targets[stage["targetId"]].get("requireApproval")
        verified = stage["strategy"]["standard"]["verify"]
        checks = [check["container"] for check in profiles[environment]["verify"] if verified]
        asked = [" ".join([*check["command"], *check["args"]]) for check in checks]
        yield environment, (["approve"] if approved else [], list(calls("\n".join(asked), {})))


def on_aws(project: Path, push: bool) -> Iterator[str]:
    """What CodePipeline does, stage by stage; or the CodeBuild project with a webhook."""
    resources = load(project / "deploy/aws/pipeline.yaml")["Resources"]
    if not push:
        built = [r["Properties"] for r in resources.values() if "BuildSpec" in str(r)]
        (hooked,) = (each for each in built if each.get("Triggers", {}).get("Webhook"))
        yield from by_codebuild(project, hooked)
        return
    (pipeline,) = (r for r in resources.values() if r["Type"] == "AWS::CodePipeline::Pipeline")
    for stage in pipeline["Properties"]["Stages"]:
        for action in sorted(stage["Actions"], key=lambda action: action.get("RunOrder", 1)):
            if action["ActionTypeId"]["Category"] == "Approval":
                yield "approve"
            elif action["ActionTypeId"]["Provider"] == "CodeBuild":
                built = resources[action["Configuration"]["ProjectName"]]["Properties"]
                yield from by_codebuild(project, built)


def by_codebuild(project: Path, built: dict[str, Any]) -> Iterator[str]:
    """Yield what the phases of a CodeBuild project call."""
    given = built["Environment"].get("EnvironmentVariables", [])
    variables = {each["Name"]: str(each["Value"]) for each in given if "Value" in each}
    phases = load(project / built["Source"]["BuildSpec"])["phases"]
    for phase in ("install", "pre_build", "build", "post_build"):
        yield from calls("\n".join(phases.get(phase, {}).get("commands", [])), variables)


SYSTEMS = {"github": on_github, "google-cloud-build": on_google, "aws-codepipeline": on_aws}


@pytest.mark.parametrize("ci", SYSTEMS)
def test_each_system_takes_the_same_steps_in_the_same_order(projects: Projects, ci: str) -> None:
    assert list(SYSTEMS) == QUESTIONS["ci"]
    for project, answers in projects.items():
        if answers["ci"] == ci:
            assert once(SYSTEMS[ci](project, push=True)) == STEPS, answers
            assert once(SYSTEMS[ci](project, push=False)) == CHECKS, answers


def test_the_script_knows_the_steps(projects: Projects) -> None:
    script = (next(iter(projects)) / "deploy/deliver.sh").read_text("utf-8")
    known = re.findall(r"^(?: *)([\w |-]+)\)", script.partition('case "$step" in')[2], re.MULTILINE)
    names = {name.strip() for line in known for name in line.split("|")}
    assert {step.split()[0] for step in STEPS} - {"approve"} <= names
    assert "roll-back" in names


def test_steps_are_found_in_each_notation(tmp_path: Path) -> None:
    """As the three systems write them: a shell's words, a list of arguments, a variable."""
    assert list(calls("bash deploy/deliver.sh check\nbash deploy/deliver.sh test", {})) == [
        "check",
        "test",
    ]
    assert list(calls('bash deploy/deliver.sh deploy "$ENVIRONMENT"', {"ENVIRONMENT": "x"})) == [
        "deploy x"
    ]
    assert list(calls("deploy/deliver.sh smoke ${TO} && echo", {"TO": "production"})) == [
        "smoke production"
    ]
    workflow = {"jobs": {"b": {"needs": "a"}, "a": {}, "c": {"needs": ["a", "b"]}}}
    assert [name for name, _ in in_order(json.loads(json.dumps(workflow))["jobs"])] == list("abc")
