"""What AWS lacks of what deploy/aws needs, asked by aws: a part of `doctor --ci`.

The buildspecs name the secrets and parameters. The values of secrets are read, and never shown.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project
from mlops_loop.onboarding.doctor import printed

FOLDER = Path("deploy/aws")
PAGE = "see docs/aws-codepipeline.md"
Answer = dict[str, Any]  # type: ignore[explicit-any] # of as many shapes as there are requests
ENVIRONMENTS = "staging", "production"
ABSENT = "NotFound", "does not exist", "ValidationError"  # in what aws says of what is not there


def findings() -> Iterator[str]:
    """Give a line for each thing that is missing, with what mends it."""
    try:
        ask("sts", "get-caller-identity")
    except Failure as failure:
        mend = "install the AWS CLI, then aws configure sso; set AWS_PROFILE and AWS_REGION"
        raise Failure(f"AWS cannot be asked ({failure}): {mend}") from None
    yield from connections()
    yield from roles()
    yield from stack()
    secrets, parameters = wanted()
    for name in sorted(parameters):
        if problem := absence("ssm", "get-parameter", "--name", name):
            create = f"aws ssm put-parameter --type String --name {name} --value ..."
            yield f"parameter {name}: {problem}: {create}"
    for name, keys in sorted(secrets.items()):
        yield from secret(name, keys)
    if not (Path("deploy") / "cosign.pub").exists():
        yield "key deploy/cosign.pub: not there: cosign generate-key-pair, then commit it"


def ask(*request: str) -> Answer:
    answer: Answer = json.loads(printed("aws", *request, "--output", "json") or "{}")
    return answer


def absence(*request: str) -> str | None:
    """Return why there is no answer, or None if there is one."""
    try:
        ask(*request)
    except Failure as failure:
        return "not there" if any(sign in str(failure) for sign in ABSENT) else str(failure)
    return None


def connections() -> Iterator[str]:
    """See whether a connection to the repository is there, and confirmed by somebody."""
    try:
        found = ask("codeconnections", "list-connections").get("Connections", [])
    except Failure as failure:
        yield f"connection: {failure}"
        return
    states = {each["ConnectionName"]: each["ConnectionStatus"] for each in found}
    if "AVAILABLE" in states.values():
        return
    for name, state in states.items():
        mend = "Developer Tools, Settings, Connections: Update pending connection"
        yield f"connection {name}: {state}: confirm it in the console ({mend})"
    if not states:
        name = current_project().name
        create = f"--provider-type GitHub --connection-name {name}"
        yield f"connection: not there: aws codeconnections create-connection {create}"


def roles() -> Iterator[str]:
    """See whether each environment's role is there, by the names that target.yaml exports."""
    try:
        exports = {each["Name"] for each in ask("cloudformation", "list-exports")["Exports"]}
    except Failure as failure:
        yield f"roles: {failure}"
        return
    for environment in ENVIRONMENTS:
        name = f"{current_project().name}-{environment}-deploy-role"
        if name not in exports:
            yield f"role {name}: not there: create the stack of deploy/aws/target.yaml, {PAGE}"


def stack() -> Iterator[str]:
    name = f"{current_project().name}-delivery"
    if problem := absence("cloudformation", "describe-stacks", "--stack-name", name):
        yield f"stack {name}: {problem}: create it from deploy/aws/pipeline.yaml, {PAGE}"


def wanted() -> tuple[dict[str, set[str]], set[str]]:
    """Return the keys of each secret and the parameters that builds and tasks need."""
    secrets, parameters = defaultdict[str, set[str]](set), set[str]()
    for path in sorted(FOLDER.glob("buildspec-*.yml")):
        env = yaml.safe_load(path.read_text("utf-8")).get("env", {})
        parameters.update(env.get("parameter-store", {}).values())
        for reference in env.get("secrets-manager", {}).values():
            name, _, key = reference.partition(":")
            secrets[name].add(key)
    if (FOLDER / "release.sh").exists():  # ECS starts the tasks with these
        for environment in ENVIRONMENTS:
            place = f"{current_project().name}/{environment}"
            secrets[f"{place}/api"] |= {"API_KEYS", "PII_KEY"}
            secrets[f"{place}/database"].add("password")
            parameters.add(f"/{place}/prediction-log-url")
    return secrets, parameters


def secret(name: str, keys: set[str]) -> Iterator[str]:
    """See whether a secret is there and has its keys; empty values are allowed."""
    try:
        text = ask("secretsmanager", "get-secret-value", "--secret-id", name)["SecretString"]
        held = json.loads(text).keys()
    except Failure as failure:
        missing = any(sign in str(failure) for sign in ABSENT)
        why = "not there" if missing else str(failure)
        value = json.dumps(dict.fromkeys(sorted(keys), ""))
        create = f"aws secretsmanager create-secret --name {name} --secret-string '{value}'"
        yield f"secret {name}: {why}: {create}"
    except (AttributeError, KeyError, ValueError):
        yield f"secret {name}: holds no JSON object: its keys are to be {', '.join(sorted(keys))}"
    else:
        for key in sorted(keys - held):
            yield f"secret {name}: has no key {key}: add it, empty if it is not used"
