"""Champion: which version is served. Moved by a line in the audit log, then in registry and bundle.

The line decides. What a crash cuts short after it is finished by whatever comes next, see `settle`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.release import audit, registry
from mlops_loop.scoring.bundle import PROMOTION, open_bundle
from mlops_loop.tracking.session import experiment_name, session
from mlops_loop.training import card

SETTLED = (
    "audit_sha256"  # tag of a version: the line of the audit log that its aliases and tags follow
)


def settle(client: MlflowClient, log: sa.Engine) -> ModelVersion | None:
    """Bring the registry's aliases and tags to what the audit log says; return the champion.

    It may be cut short anywhere and called again. There is always one champion: its alias moves at once.
    Raises a Refusal if the log was tampered with, or is not the one of this registry.
    """
    name = experiment_name()
    champion = registry.by_alias(client, "champion")
    if found := audit.verify(log, name, anchors(client)):
        which = "or is PREDICTION_LOG_URL another registry's?"
        raise Refusal(f"the audit log cannot be trusted: {found[0]}; {audit.MEND}; {which}")
    if not (move := audit.last(log, name, *audit.MOVES)):
        return champion
    version = registry.by_number(client, move["version"])
    if not version or version.tags.get("bundle_sha256") != move["bundle_sha256"]:
        return champion  # of a registry that is gone
    if version.tags.get(SETTLED) == move["sha256"]:
        if champion and champion.version == version.version:
            return champion
        moved = f"to version {champion.version}" if champion else "away"
        reason = f"its alias had been moved {moved} by other means than these commands"
        facts = {key: move[key] for key in ("version", "before", "bundle_sha256")}
        move = audit.append(log, name, move, event="restored", reason=reason, **facts)
    before = move["before"]
    if move["event"] == "promoted":
        for key, value in (("promoted_by", move["by"]), ("promoted_at", move["time"])):
            client.set_model_version_tag(name, move["version"], key, value)
    elif move["event"] == "rolled back":
        client.set_model_version_tag(
            name, before, "rolled_back", f"{move['time']} {move['reason']}"
        )
    for tag in {"refused", "rolled_back"} & set(version.tags):
        client.delete_model_version_tag(name, move["version"], tag)
    if before:
        client.set_registered_model_alias(name, "previous", before)
    client.set_registered_model_alias(name, "champion", move["version"])
    challenger = registry.by_alias(client, "challenger")
    if challenger and str(challenger.version) == move["version"]:  # refused once, better now
        client.delete_registered_model_alias(name, "challenger")
    # Last, because it says that all of the above is done.
    client.set_model_version_tag(name, move["version"], SETTLED, move["sha256"])
    return registry.by_number(client, move["version"])


def anchors(client: MlflowClient) -> dict[str, str]:
    """Return the hashes of the lines that the registry's versions stand by, and the versions."""
    versions = client.search_model_versions(f"name = '{experiment_name()}'")
    return {found.tags[SETTLED]: str(found.version) for found in versions if SETTLED in found.tags}


def record(version: ModelVersion) -> dict[str, Any]:
    """Return what the registry knows of a version, for promotion.json."""
    gates = json.loads(version.tags.get("gates", "[]"))
    return {
        "version": str(version.version),
        "run_id": version.run_id,
        **version.tags,
        "gates": gates,
    }


def install(client: MlflowClient, target: Path) -> dict[str, Any] | None:
    """Put the champion's bundle where the server looks for it; return its record."""
    while champion := registry.by_alias(client, "champion"):
        install_version(champion, target)
        newest = registry.by_alias(client, "champion")
        if newest and newest.version == champion.version:  # else it moved while we copied
            return open_bundle(target).promotion
    return None


def install_version(version: ModelVersion, target: Path) -> None:
    """Put a version's bundle into a folder, if it does not hold it already."""
    promotion = record(version)
    if not holds(target, promotion):
        with files.writing(target) as beside:
            registry.fetch(version, beside)
            hashes = card.finish(beside, promotion)
            files.write_json(beside / PROMOTION, promotion | {"files": hashes})


def holds(target: Path, promotion: dict[str, Any]) -> bool:
    """Return whether a folder holds this version's bundle, whole."""
    try:
        found = open_bundle(target).promotion
    except Failure:
        return False
    return {key: value for key, value in found.items() if key != "files"} == promotion


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


def former(client: MlflowClient, log: sa.Engine, champion: ModelVersion) -> ModelVersion | None:
    """Return the champion before this one; not one that was itself rolled back since."""
    for line in reversed(
        [line for line in audit.read(log, experiment_name()) if line["event"] in audit.MOVES]
    ):
        found = registry.by_number(client, line["version"])
        if found and found.version != champion.version and "rolled_back" not in found.tags:
            return found
    return None


def roll_back(number: str | None, reason: str) -> dict[str, Any]:
    """Make a former champion champion again, by default the last not rolled back; return its record."""
    settings, folder, name = load_settings(), target(), experiment_name()
    with session(settings) as client:
        log = audit.open_audit(settings.prediction_log_url)
        champion = settle(client, log)
        if champion is None:
            raise Failure("there is no champion to roll back from")
        install(client, folder)
        seen = audit.last(log, name, *audit.MOVES)
        wanted = registry.by_number(client, number) if number else former(client, log, champion)
        if wanted is None:
            none = "there was no champion before this one that was not rolled back: name a VERSION"
            raise Failure(f"there is no version {number}" if number else none)
        if wanted.version == champion.version:
            raise Failure(f"version {wanted.version} is champion already")
        if "promoted_at" not in wanted.tags:
            raise Refusal(
                f"version {wanted.version} was never champion: only `promote` can make it that"
            )
        facts = {"version": str(wanted.version), "before": str(champion.version), "reason": reason}
        facts["bundle_sha256"] = wanted.tags["bundle_sha256"]
        # The way back to a version that was rolled back says nothing against the one in between.
        event = "returned" if "rolled_back" in wanted.tags else "rolled back"
        audit.append(log, name, seen, event=event, **facts)
        settle(client, log)
        installed = install(client, folder)
    if installed is None:
        raise Failure("the registry has lost its champion: run this again")
    return installed


def problems(client: MlflowClient, log: sa.Engine) -> list[str]:
    """Return what is wrong with the audit log, in itself and beside the registry; nothing if all is well."""
    name, champion = experiment_name(), registry.by_alias(client, "champion")
    if found := audit.verify(log, name, anchors(client)):
        return found
    move = audit.last(log, name, *audit.MOVES)
    if champion and (not move or str(champion.version) != move["version"]):
        return [
            f"the registry's champion is version {champion.version}, of which the log knows nothing"
        ]
    return []


def look_back(shown: int, as_json: bool) -> None:
    """Print the audit log; raise a Refusal if it, or the registry, was tampered with."""
    settings, name = load_settings(), experiment_name()
    log = audit.open_audit(settings.prediction_log_url)
    with session(settings) as client:
        found = problems(client, log)
    if as_json:
        for entry in audit.read(log, name):
            print(json.dumps(entry, ensure_ascii=False))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise Refusal(
            f"the audit log cannot be trusted: {'; '.join(found[:5])}{more}; {audit.MEND}"
        )
    if not as_json:
        table = Table("line", "when", "what", "version", "by", "commit", "why")
        for entry in audit.newest(log, name, shown):
            commit, _, dirty = (entry.get("git_commit") or "").partition("-")
            entry |= {
                "git_commit": commit[:10] + "-dirty" * bool(dirty),
                "time": entry["time"][:19].replace("T", " "),
            }
            keys = ("number", "time", "event", "version", "by", "git_commit", "reason")
            table.add_row(*(escape(str(entry.get(key, ""))) for key in keys))
        Console().print(table)
    print("every line is in its place, and the registry agrees", file=sys.stderr)
