"""Champion: which version is served. Moved by a line in the audit log, then in registry and bundle.

The line decides. What a crash cuts short after it is finished by whatever comes next, see `settle`.
"""

import json
from pathlib import Path

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.release import audit, registry
from mlops_loop.reporting.page import write_overview
from mlops_loop.scoring.bundle import PROMOTION, open_bundle
from mlops_loop.tracking.session import experiment_name, session
from mlops_loop.training.card.promotion import PromotionRecord, finish

# Tag of a version: the line of the audit log that its aliases and tags follow.
SETTLED = "audit_sha256"


def settle(client: MlflowClient, log: sa.Engine) -> ModelVersion | None:
    """Bring the registry's aliases and tags to what the audit log says; return the champion.

    It may be cut short anywhere and called again. There is always one champion: its alias moves at
    once. Raises a Refusal if the log was tampered with, or is not the one of this registry.
    """
    name = experiment_name()
    champion = registry.by_alias(client, "champion")
    if found := audit.verify(log, name, anchors(client)):
        which = "or is PREDICTION_LOG_URL another registry's?"
        raise Refusal(f"the audit log cannot be trusted: {found[0]}; {audit.MEND}; {which}")
    if not (move := audit.last(log, name, *audit.MOVES)):
        return champion
    version = registry.by_number(client, move.version)
    if not version or version.tags.get("bundle_sha256") != move.bundle_sha256:
        return champion  # of a registry that is gone
    if version.tags.get(SETTLED) == move.sha256:
        if champion and champion.version == version.version:
            return champion
        move = restore(log, move, champion)
    tag(client, version, move)
    set_aliases(client, move)
    # Last, because it says that all of the above is done.
    client.set_model_version_tag(name, move.version, SETTLED, move.sha256)
    return registry.by_number(client, move.version)


def restore(log: sa.Engine, move: audit.Line, champion: ModelVersion | None) -> audit.Line:
    """Record that the alias comes back to where the log has it; return the new line."""
    moved = f"to version {champion.version}" if champion else "away"
    reason = f"its alias had been moved {moved} by other means than these commands"
    facts: dict[str, JsonValue] = {
        "reason": reason,
        "version": move.version,
        "before": move.before,
        "bundle_sha256": move.bundle_sha256,
    }
    return audit.append(log, experiment_name(), "restored", facts, audit.Seen(move, audit.MOVES))


def tag(client: MlflowClient, version: ModelVersion, move: audit.Line) -> None:
    """Write on the versions who promoted the one, and why the other was rolled back."""
    name = experiment_name()
    number = move.version
    if move.event == "promoted":
        client.set_model_version_tag(name, number, "promoted_by", move.by)
        client.set_model_version_tag(name, number, "promoted_at", move.time)
    elif move.event == "rolled back":
        why = f"{move.time} {move.reason}"
        client.set_model_version_tag(name, move.before, "rolled_back", why)
    for stale in {"refused", "rolled_back"} & set(version.tags):
        client.delete_model_version_tag(name, number, stale)


def set_aliases(client: MlflowClient, move: audit.Line) -> None:
    """Point `champion` and `previous` at the versions that the line names."""
    name = experiment_name()
    number = move.version
    if move.before:
        client.set_registered_model_alias(name, "previous", move.before)
    client.set_registered_model_alias(name, "champion", number)
    challenger = registry.by_alias(client, "challenger")
    if challenger and str(challenger.version) == number:  # refused once, better now
        client.delete_registered_model_alias(name, "challenger")


def anchors(client: MlflowClient) -> dict[str, str]:
    """Return the hashes of the lines that the registry's versions stand by, and the versions."""
    versions = client.search_model_versions(f"name = '{experiment_name()}'")
    return {found.tags[SETTLED]: str(found.version) for found in versions if SETTLED in found.tags}


def record(version: ModelVersion) -> PromotionRecord:
    """Return what the registry knows of a version, for promotion.json."""
    facts = {
        **version.tags,
        "version": str(version.version),
        "run_id": version.run_id,
        "gates": json.loads(version.tags.get("gates", "[]")),
    }
    return PromotionRecord.model_validate(facts)


def install(client: MlflowClient, target: Path) -> str | None:
    """Put the champion's bundle where the server looks for it; return its version."""
    while champion := registry.by_alias(client, "champion"):
        install_version(champion, target)
        newest = registry.by_alias(client, "champion")
        if newest and newest.version == champion.version:  # else it moved while we copied
            return str(champion.version)
    return None


def install_version(version: ModelVersion, target: Path) -> None:
    """Put a version's bundle into a folder, if it does not hold it already."""
    promotion = record(version)
    if not holds(target, promotion):
        with files.writing(target) as tmp_path:
            registry.fetch(version, tmp_path)
            completed = promotion.model_copy(update={"files": finish(tmp_path, promotion)})
            document = completed.model_dump(mode="json", exclude_unset=True)
            files.write_json(tmp_path / PROMOTION, document)
        write_overview()


def holds(target: Path, promotion: PromotionRecord) -> bool:
    """Return whether a folder holds this version's bundle, whole."""
    try:
        found = open_bundle(target).promotion
    except Failure:
        return False
    held, wanted = (
        each.model_dump(mode="json", exclude={"files"}, exclude_unset=True)
        for each in (found, promotion)
    )
    return held == wanted


def target() -> Path:
    """Return the folder that is served."""
    folder = Path(load_settings().bundle)
    if folder.resolve() == BUNDLE.resolve():
        raise Failure(
            f"BUNDLE is {BUNDLE}, the candidate's own folder: name another for the champion"
        )
    challenger = Path(load_settings().challenger).resolve()
    for other in (folder.resolve(), BUNDLE.resolve()):
        if challenger == other or challenger in other.parents or other in challenger.parents:
            raise Failure(
                f"CHALLENGER must be a folder of its own, apart from {folder} and {BUNDLE}"
            )
    return folder


def install_champion(settings: Settings) -> None:
    with session(settings) as client:
        install(client, target())
