"""What GitHub lacks of what the workflows need, asked by gh: a part of `doctor --ci`.

The workflow files say what that is. An expression with `||` has a default: its names are optional.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from mlops_loop.base.errors import Failure
from mlops_loop.onboarding.doctor import Later, Note, printed, repository

FOLDER = Path(".github/workflows")
REPOSITORY = "repos/{owner}/{repo}"  # gh puts in whose it is
APPROVED = "production"  # the environment whose releases somebody approves
KINDS = {"vars": "variable", "secrets": "secret"}  # pragma: allowlist secret
PROPOSES = "create-pull-request"


class Job(NamedTuple):
    """A job, and the (kind, name) pairs that it cannot do without."""

    name: str
    environment: str
    condition: set[str]  # variables without which it is skipped
    needs: set[tuple[str, str]]
    proposes: bool  # opens a pull request


def findings() -> Iterator[str | Later | Note]:
    """Give a line for each thing that is missing, with what mends it."""
    try:
        repository()
    except Note as note:  # nobody reads workflows in a folder of a repository
        yield str(note)
    try:
        printed("gh", "auth", "status")
        printed("gh", "repo", "view", "--json", "name")
    except Failure as failure:
        mend = "install gh (cli.github.com), `gh auth login`, `gh repo create --source .`"
        raise Failure(f"GitHub cannot be asked ({failure}): {mend}") from None
    seen = set[str]()
    for job in jobs():
        for finding in of_job(job):
            if str(finding) not in seen:
                seen.add(str(finding))
                yield finding


def jobs() -> Iterator[Job]:
    for path in sorted(FOLDER.glob("*.y*ml")):
        try:
            document = yaml.safe_load(path.read_text("utf-8"))
            common = json.dumps(document.get("env", {}))
            for name, body in document["jobs"].items():
                text = common + json.dumps(body)
                found = re.findall(r"\$\{\{(.*?)\}\}", text)
                needs = {need for each in found if "||" not in each for need in references(each)}
                condition = {name for _, name in references(str(body.get("if", "")))}
                environment = body.get("environment", "")
                if isinstance(environment, dict):
                    environment = environment["name"]
                yield Job(f"{path.stem}: {name}", environment, condition, needs, PROPOSES in text)
        except (yaml.YAMLError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split())
            raise Failure(f"{path} is no workflow ({why}): mend it, or remove it") from None


def references(expression: str) -> list[tuple[str, str]]:
    return re.findall(r"\b(vars|secrets)\.(\w+)", expression)


def of_job(job: Job) -> Iterator[str | Later | Note]:
    if unset := sorted(job.condition - known("vars")):
        mend = "; ".join(f"gh variable set {name} --body VALUE" for name in unset)
        which = " and ".join(unset)
        yield Later(f"{job.name} is skipped without the variable {which}: {mend}")
        return
    place = job.environment
    if place and place not in environments():
        mend = f"gh api --method PUT {REPOSITORY}/environments/{place}"
        yield f"the environment {place} is missing: {mend}"
    elif place == APPROVED and "required_reviewers" not in environments()[place]:
        mend = f"Settings, Environments, {place}, Required reviewers"
        yield Note(f"nobody approves a release to {place}: {mend}")
    for kind, name in sorted(job.needs):
        if name in known(kind) or (place in environments() and name in known(kind, place)):
            continue
        where = f" of the environment {place}" if place else ""
        mend = f"gh {KINDS[kind]} set {name}" + (f" --env {place}" if place else "")
        yield f"the {KINDS[kind]} {name}{where} is missing ({job.name} needs it): {mend}"
    if job.proposes and "RETRAIN_TOKEN" not in known("secrets") and not may_propose():
        mend = f"gh api --method PUT {REPOSITORY}/actions/permissions/workflow"
        mend += " -F can_approve_pull_request_reviews=true"
        yield f"Actions may open no pull request, which {job.name} does: {mend}"


@cache
def known(kind: str, environment: str = "") -> set[str]:
    """Return the names of the variables or secrets of an environment, or of the repository."""
    option = ("--env", environment) if environment else ()
    listed = printed("gh", KINDS[kind], "list", "--json", "name", "--jq", ".[].name", *option)
    names = set(listed.split())
    if not environment:
        of_all = f"{REPOSITORY}/actions/organization-{KINDS[kind]}s"
        with suppress(Failure):  # no organization's, or not to be seen by this user
            names |= set(printed("gh", "api", of_all, "--jq", f".{KINDS[kind]}s[].name").split())
    return names


@cache
def environments() -> dict[str, str]:
    """Return the environments, and the types of the rules that protect each."""
    each = '.environments[] | .name + " " + (.protection_rules | map(.type) | join(","))'
    listed = printed("gh", "api", f"{REPOSITORY}/environments", "--jq", each)
    return {name: rules for name, _, rules in (line.partition(" ") for line in listed.splitlines())}


@cache
def may_propose() -> bool:
    settings = f"{REPOSITORY}/actions/permissions/workflow"
    return printed("gh", "api", settings, "--jq", ".can_approve_pull_request_reviews") == "true"
