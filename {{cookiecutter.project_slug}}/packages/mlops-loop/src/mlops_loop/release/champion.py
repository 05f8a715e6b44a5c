"""Champion: which version is served. Moved by a line in the audit log, then in registry and bundle.

The line decides. What a crash cuts short after it is finished by whatever comes next, see `settle`.
"""

import json
from pathlib import Path

import sqlalchemy as sa

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.release import audit
from mlops_loop.reporting.page import write_overview
from mlops_loop.scoring.bundle import PROMOTION, open_bundle
from mlops_loop.tracking.registry import (
    Registry,
    Version,
    by_alias,
    by_number,
    fetch_bundle,
    open_registry,
)
from mlops_loop.training.card.promotion import PromotionRecord, finish

# Tag of a version: the line of the audit log that its aliases and tags follow.
SETTLED = "audit_sha256"


def settle(registry: Registry, log: sa.Engine) -> Version | None:
    """Bring the registry's aliases and tags to what the audit log says; return the champion.

    It may be cut short anywhere and called again. There is always one champion: its alias moves at
    once. Raises a Refusal if the log was tampered with, or is not the one of this registry.
    """
    champion = by_alias(registry, "champion")
    if found := audit.verify(log, registry.name, anchors(registry)):
        which = "or is PREDICTION_LOG_URL another registry's?"
        raise Refusal(f"the audit log cannot be trusted: {found[0]}; {audit.MEND}; {which}")
    if not (move := audit.last(log, registry.name, *audit.MOVES)):
        return champion
    version = by_number(registry, move.facts.version)
    if not version or version.tags.get("bundle_sha256") != move.facts.bundle_sha256:
        return champion  # of a registry that is gone
    if version.tags.get(SETTLED) == move.sha256:
        if champion and champion.number == version.number:
            return champion
        moved = f"to version {champion.number}" if champion else "away"
        facts = audit.Facts(
            version=version.number,
            before=move.facts.before,
            reason=f"its alias had been moved {moved} by other means than these commands",
            bundle_sha256=move.facts.bundle_sha256,
        )
        seen = audit.Seen(move, audit.MOVES)
        move = audit.append(log, registry.name, "restored", facts, seen)
    carry_out(registry, version, move)
    return by_number(registry, version.number)


def carry_out(registry: Registry, version: Version, move: audit.Line) -> None:
    """Move the aliases; tag who promoted the version, and why the one before was rolled back."""
    before = move.facts.before
    if move.event == "promoted":
        registry.set_tag(version.number, "promoted_by", move.by)
        registry.set_tag(version.number, "promoted_at", move.time)
    elif move.event == "rolled back" and before:
        registry.set_tag(before, "rolled_back", f"{move.time} {move.facts.reason}")
    for stale in {"refused", "rolled_back"} & set(version.tags):
        registry.delete_tag(version.number, stale)
    if before:
        registry.set_alias("previous", before)
    registry.set_alias("champion", version.number)
    if "challenger" in version.aliases:  # refused once, better now
        registry.delete_alias("challenger")
    # Last, because it says that all of the above is done.
    registry.set_tag(version.number, SETTLED, move.sha256)


def anchors(registry: Registry) -> dict[str, str]:
    """Return the hashes of the lines that the registry's versions stand by, and the versions."""
    tagged = [version for version in registry.versions() if SETTLED in version.tags]
    return {version.tags[SETTLED]: version.number for version in tagged}


def record(version: Version) -> PromotionRecord:
    """Return what the registry knows of a version, for promotion.json."""
    gates = json.loads(version.tags.get("gates", "[]"))
    known = {"version": version.number, "run_id": version.run_id, "gates": gates}
    return PromotionRecord.model_validate(version.tags | known)


def install(registry: Registry, target: Path) -> str | None:
    """Put the champion's bundle where the server looks for it; return its version."""
    while champion := by_alias(registry, "champion"):
        install_version(registry, champion, target)
        newest = by_alias(registry, "champion")
        if newest and newest.number == champion.number:  # else it moved while we copied
            return champion.number
    return None


def install_version(registry: Registry, version: Version, target: Path) -> None:
    """Put a version's bundle into a folder, if it does not hold it already."""
    promotion = record(version)
    if holds(target, promotion):
        return
    with files.writing(target) as tmp_path:
        fetch_bundle(registry, version, tmp_path)
        completed = promotion.model_copy(update={"files": finish(tmp_path, promotion)})
        document = completed.model_dump(mode="json", exclude_unset=True)
        files.write_json(tmp_path / PROMOTION, document)
        files.make_readable(tmp_path)  # for the user of an image or a shared folder
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
    """Return the folder that is served; refuse one in which another bundle lies."""
    settings = load_settings()
    folder = Path(settings.bundle)
    challenger = Path(settings.challenger).resolve()
    if folder.resolve() == BUNDLE.resolve():
        own = "the candidate's own folder: name another for the champion"
        raise Failure(f"BUNDLE is {BUNDLE}, {own}")
    for other in (folder.resolve(), BUNDLE.resolve()):
        if challenger.is_relative_to(other) or other.is_relative_to(challenger):
            apart = f"a folder of its own, apart from {folder} and {BUNDLE}"
            raise Failure(f"CHALLENGER must be {apart}")
    return folder


def install_champion(settings: Settings) -> str | None:
    return install(open_registry(settings), target())


def roll_back(number: str | None, reason: str) -> str:
    """Make a former champion champion again, by default the last; return its version."""
    settings = load_settings()
    folder = target()
    registry = open_registry(settings)
    log = audit.open_audit(settings.prediction_log_url)
    champion = settle(registry, log)
    if champion is None:
        raise Failure("there is no champion to roll back from")
    install(registry, folder)
    seen = audit.last_move(log, registry.name)
    wanted = find_former(registry, log, champion, number)
    # The way back to a version that was rolled back says nothing against the one in between.
    event = "returned" if "rolled_back" in wanted.tags else "rolled back"
    facts = audit.Facts(
        version=wanted.number,
        before=champion.number,
        reason=reason,
        bundle_sha256=wanted.tags["bundle_sha256"],
    )
    audit.append(log, registry.name, event, facts, seen)
    settle(registry, log)
    if (installed := install(registry, folder)) is None:
        raise Failure("the registry has lost its champion: run this again")
    return installed


def find_former(
    registry: Registry, log: sa.Engine, champion: Version, number: str | None
) -> Version:
    """Return the version to roll back to, by default the champion before this one.

    It must have been champion, and by default not have been rolled back since.
    """
    versions = {version.number: version for version in registry.versions()}
    wanted = versions.get(number or "")
    for line in audit.read(log, registry.name, *audit.MOVES) if number is None else ():
        former = versions.get(line.facts.version, champion)
        if former.number != champion.number and "rolled_back" not in former.tags:
            wanted = former
    if wanted is None:
        none = "there was no champion before this one that was not rolled back: name a VERSION"
        raise Failure(f"there is no version {number}" if number else none)
    if wanted.number == champion.number:
        raise Failure(f"version {wanted.number} is champion already")
    if "promoted_at" not in wanted.tags:
        never = f"version {wanted.number} was never champion"
        raise Refusal(f"{never}: only `promote` can make it that")
    return wanted
