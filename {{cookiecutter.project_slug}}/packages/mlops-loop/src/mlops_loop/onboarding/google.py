"""What Google Cloud lacks of what deploy/google needs, asked by gcloud: a part of `doctor --ci`."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Template

from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project
from mlops_loop.onboarding.git import run

FOLDER = Path("deploy/google")
SETUP = "bash deploy/google/setup.sh"
OPTIONAL = {"MLFLOW_TRACKING_USERNAME"}
# What can be listed: kind -> the command that lists names, and what the names begin with.
LISTS = {
    "api": ("services list --enabled --format=value(config.name)", ""),
    "account": ("iam service-accounts list --format=value(email)", "$ACCOUNT-"),
    "trigger": ("builds triggers list --region=$REGION --format=value(name)", "$SLUG-"),
    "schedule": (
        "scheduler jobs list --location=$REGION --format=value(name.basename())",
        "$SLUG-",
    ),
    "target": (
        "deploy targets list --region=$REGION --flatten=targets[]"
        " --format=value(targets.name.basename())",
        "$SLUG-",
    ),
}
EMAIL = "$ACCOUNT-$NAME@$PROJECT_ID.iam.gserviceaccount.com"
# Where roles are granted: kind -> the command that tells which account has which.
POLICIES = {
    "project": "projects get-iam-policy $PROJECT_ID",
    "registry": "artifacts repositories get-iam-policy $SLUG --location=$REGION",
    "bucket": "storage buckets get-iam-policy gs://$BUCKET",
    "key": "kms keys get-iam-policy sign --keyring=$SLUG --location=$REGION",
    "account": f"iam service-accounts get-iam-policy {EMAIL}",
    "secret": "secrets get-iam-policy $SLUG-$NAME",  # pragma: allowlist secret
}
CONNECTION = "builds connections describe $CONNECTION --region=$REGION"
REPOSITORY = "builds repositories describe $REPOSITORY --connection=$CONNECTION --region=$REGION"
PAGE = "see docs/google-cloud-build.md"


def findings() -> Iterator[str]:
    """Give a line for each thing that is missing, with what mends it."""
    settings = read_settings()
    empty = sorted({name for name, value in settings.items() if not value} - OPTIONAL)
    for name in empty:
        yield f"setting {name} is empty: set it in {FOLDER}/settings.env"
    if empty:
        return
    google = Google(settings)
    google.ask("projects describe $PROJECT_ID")  # raises a Failure unless gcloud may ask
    yield from google.missing_repository()
    for kind, *words in needs():
        match kind, words:
            case "role", [account, role, place]:
                yield from google.missing_role(account, role, place)
            case "secret", [name]:
                yield from google.missing_secret(name)
            case _, [name, *_]:
                yield from google.missing(kind, name)


def read_settings() -> dict[str, str]:
    """Return the settings of deploy/google, and the project's name as SLUG."""
    settings = {"SLUG": current_project().name}
    for path in sorted([FOLDER / "settings.env", *FOLDER.glob("*/settings.env")]):
        for line in path.read_text("utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                settings[name] = Template(value.strip()).safe_substitute(settings)
    return settings


def needs() -> Iterator[list[str]]:
    """Give the words of each line of needs.txt."""
    for path in [FOLDER / "needs.txt", *FOLDER.glob("*/needs.txt")]:
        for line in path.read_text("utf-8").splitlines():
            if line and not line.startswith("#"):
                yield line.split()


class Google:
    """Questions to gcloud, each asked once."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings
        self.ask = cache(self._ask)

    def fill(self, text: str, **more: str) -> str:
        return Template(text).substitute(self.settings | more)

    def _ask(self, command: str, name: str = "") -> str:
        """Return what gcloud prints; raise a Failure with its words."""
        words = [self.fill(word, NAME=name) for word in command.split()]
        done = run("gcloud", *words, f"--project={self.settings['PROJECT_ID']}", "--quiet")
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR:")]
            raise Failure((errors or lines[-1:] or ["gcloud says nothing"])[0])
        return done.stdout

    def missing(self, kind: str, name: str) -> Iterator[str]:
        command, prefix = LISTS[kind]
        name = self.fill(prefix) + name
        try:
            found = {line.partition("@")[0] for line in self.ask(command).splitlines()}
        except Failure as failure:
            yield f"{kind} {name} cannot be seen ({failure}): {SETUP}"
            return
        if name not in found:
            yield f"{kind} {name} is missing: {SETUP}"

    def missing_role(self, account: str, role: str, place: str) -> Iterator[str]:
        kind, _, name = place.partition(":")
        email = self.fill(EMAIL, NAME=account)
        try:
            policy = json.loads(self.ask(f"{POLICIES[kind]} --format=json", name) or "{}")
        except Failure as failure:
            yield f"role {role} of {account}: {place} cannot be seen ({failure}): {SETUP}"
            return
        granted = {
            (binding["role"], member)
            for binding in policy.get("bindings", [])
            for member in binding["members"]
        }
        if (role, f"serviceAccount:{email}") not in granted:
            yield f"role {role} on {place} is missing for {email}: {SETUP}"

    def missing_secret(self, name: str) -> Iterator[str]:
        secret = self.fill(f"$SLUG-{name}")
        listing = "secrets versions list $SLUG-$NAME --filter=state=ENABLED --format=value(name)"
        mend = f"printf %s VALUE | gcloud secrets versions add {secret} --data-file=-"
        try:
            if not self.ask(listing, name).strip():
                yield f"secret {secret} has no value: {mend}"
        except Failure:
            yield f"secret {secret} is missing: {SETUP}, then {mend}"

    def missing_repository(self) -> Iterator[str]:
        for what, command in (("connection", CONNECTION), ("repository", REPOSITORY)):
            name = self.settings[what.upper()]
            try:
                told = json.loads(self.ask(f"{command} --format=json"))
                stage = told.get("installationState", {}).get("stage", "COMPLETE")
            except Failure:
                stage = "missing"
            if stage != "COMPLETE":
                yield f"{what} {name} is {stage}: {PAGE}"
