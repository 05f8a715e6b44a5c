"""Rollback: make a former champion champion again."""

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import JsonValue

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.release import audit, registry
from mlops_loop.release.champion import install, settle, target
from mlops_loop.tracking.session import experiment_name, session


def roll_back(number: str | None, reason: str) -> str:
    """Make a former champion champion again, by default the last; return its version."""
    settings = load_settings()
    folder = target()
    name = experiment_name()
    with session(settings) as client:
        log = audit.open_audit(settings.prediction_log_url)
        champion = settle(client, log)
        if champion is None:
            raise Failure("there is no champion to roll back from")
        install(client, folder)
        seen = audit.last_move(log, name)
        wanted = find(client, log, champion, number)
        # The way back to a version that was rolled back says nothing against the one in between.
        event = "returned" if "rolled_back" in wanted.tags else "rolled back"
        facts: dict[str, JsonValue] = {
            "version": str(wanted.version),
            "before": str(champion.version),
            "reason": reason,
            "bundle_sha256": wanted.tags["bundle_sha256"],
        }
        audit.append(log, name, event, facts, seen)
        settle(client, log)
        installed = install(client, folder)
    if installed is None:
        raise Failure("the registry has lost its champion: run this again")
    return installed


def find(
    client: MlflowClient, log: sa.Engine, champion: ModelVersion, number: str | None
) -> ModelVersion:
    """Return the version to roll back to; it must have been champion."""
    wanted = registry.by_number(client, number) if number else former(client, log, champion)
    if wanted is None:
        none = "there was no champion before this one that was not rolled back: name a VERSION"
        raise Failure(f"there is no version {number}" if number else none)
    if wanted.version == champion.version:
        raise Failure(f"version {wanted.version} is champion already")
    if "promoted_at" not in wanted.tags:
        never = f"version {wanted.version} was never champion"
        raise Refusal(f"{never}: only `promote` can make it that")
    return wanted


def former(client: MlflowClient, log: sa.Engine, champion: ModelVersion) -> ModelVersion | None:
    """Return the champion before this one; not one that was itself rolled back since."""
    lines = audit.read(log, experiment_name())
    for line in reversed([line for line in lines if line.event in audit.MOVES]):
        found = registry.by_number(client, line.version)
        if found and found.version != champion.version and "rolled_back" not in found.tags:
            return found
    return None
