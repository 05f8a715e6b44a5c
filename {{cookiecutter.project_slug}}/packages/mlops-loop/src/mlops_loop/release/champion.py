"""Champion: which version is served. Moved by a line in the audit log, then in registry and bundle.

The line decides. What a crash cuts short after it is finished by whatever comes next, see `settle`.
"""

import json
from contextlib import suppress
from itertools import permutations
from pathlib import Path

from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.release.audit import MEND, MOVES, SETTLED, AuditLog, Facts, Line, Seen, anchors
from mlops_loop.reporting.page import write_overview
from mlops_loop.scoring.bundle import PROMOTION, PromotionFacts, open_bundle
from mlops_loop.tracking.registry import Registry, Version, open_registry
from mlops_loop.training.card.promotion import PromotionRecord, finish


def settle(registry: Registry, log: AuditLog) -> Version | None:
    """Bring the registry's aliases and tags to what the audit log says; return the champion.

    It may be cut short anywhere and called again. There is always one champion: its alias moves at
    once. Raises a Refusal if the log was tampered with, or is not the one of this registry.
    """
    champion = registry.by_alias("champion")
    if found := log.verify(anchors(registry)):
        which = "or is PREDICTION_LOG_URL another registry's?"
        raise Refusal(f"the audit log cannot be trusted: {found[0]}; {MEND}; {which}")
    move = log.last(*MOVES)
    version = registry.by_number(move.facts.version) if move else None
    if not move or not version or version.tags.get("bundle_sha256") != move.facts.bundle_sha256:
        return champion  # the log's is of a registry that is gone
    if version.tags.get(SETTLED) == move.sha256:
        if champion and champion.number == version.number:
            return champion
        moved = f"to version {champion.number}" if champion else "away"
        reason = f"its alias had been moved {moved} by other means than these commands"
        known = move.facts.model_dump(include={"version", "before", "bundle_sha256"})
        move = log.append("restored", Facts(reason=reason, **known), Seen(move, MOVES))
    carry_out(registry, version, move)
    return registry.by_number(version.number)


def carry_out(registry: Registry, version: Version, move: Line) -> None:
    """Move the aliases; tag who promoted the version, and why the one before was rolled back."""
    number = version.number
    before = move.facts.before
    if move.event == "promoted":
        registry.set_tag(number, "promoted_by", move.by)
        registry.set_tag(number, "promoted_at", move.time)
    elif move.event == "rolled back" and before:
        registry.set_tag(before, "rolled_back", f"{move.time} {move.facts.reason}")
    for stale in {"refused", "rolled_back"} & set(version.tags):
        registry.set_tag(number, stale, "")
    if before:
        registry.set_alias("previous", before)
    registry.set_alias("champion", number)
    if "challenger" in version.aliases:  # refused once, better now
        registry.delete_alias("challenger")
    # Last, because it says that all of the above is done.
    registry.set_tag(number, SETTLED, move.sha256)


def install(registry: Registry, folder: Path) -> str | None:
    """Put the champion's bundle where the server looks for it; return its version."""
    while champion := registry.by_alias("champion"):
        install_version(registry, champion, folder)
        newest = registry.by_alias("champion")
        if newest and newest.number == champion.number:  # else it moved while we copied
            return champion.number
    return None


def install_version(registry: Registry, version: Version, folder: Path) -> None:
    """Put a version's bundle, with its promotion, into a folder that does not hold it already."""
    gates = json.loads(version.tags.get("gates", "[]"))
    known = {"version": version.number, "run_id": version.run_id, "gates": gates}
    promotion = PromotionRecord.model_validate(version.tags | known)
    with suppress(Failure):  # there is no bundle, or it is not whole
        if document(open_bundle(folder).promotion) == document(promotion):
            return
    with files.writing(folder) as tmp_path:
        registry.fetch(version, tmp_path)
        completed = document(promotion) | {"files": finish(tmp_path, promotion)}
        files.write_json(tmp_path / PROMOTION, completed)
        files.make_readable(tmp_path)  # for the user of an image or a shared folder
    write_overview()


def document(promotion: PromotionFacts) -> dict[str, JsonValue]:
    """Return a promotion as promotion.json has it, without the hashes of the completed files."""
    return promotion.model_dump(mode="json", exclude={"files"}, exclude_unset=True)


def target() -> Path:
    """Return the folder that is served; refuse one in which another bundle lies."""
    settings = load_settings()
    folder = Path(settings.bundle)
    folders = [path.resolve() for path in (folder, Path(settings.challenger), BUNDLE)]
    if any(one.is_relative_to(other) for one, other in permutations(folders, 2)):
        own = f"{BUNDLE}, the candidate's own folder"
        raise Failure(f"BUNDLE and CHALLENGER must be folders apart, also from {own}")
    return folder


def install_champion(settings: Settings) -> str | None:
    return install(open_registry(settings), target())


def roll_back(number: str | None, reason: str) -> str:
    """Make a former champion champion again, by default the last; return its version."""
    settings = load_settings()
    folder = target()
    registry = open_registry(settings)
    log = AuditLog(settings)
    champion = settle(registry, log)
    if champion is None:
        raise Failure("there is no champion to roll back from")
    install(registry, folder)
    seen = log.seen(*MOVES)
    wanted = find_former(registry, log, champion, number)
    # The way back to a version that was rolled back says nothing against the one in between.
    event = "returned" if wanted.tags.get("rolled_back") else "rolled back"
    digest = wanted.tags["bundle_sha256"]
    facts = Facts(
        version=wanted.number, before=champion.number, reason=reason, bundle_sha256=digest
    )
    log.append(event, facts, seen)
    settle(registry, log)
    return install(registry, folder) or wanted.number


def find_former(
    registry: Registry, log: AuditLog, champion: Version, number: str | None
) -> Version:
    """Return the version to roll back to, by default the champion before this one.

    It must have been champion, and by default not have been rolled back since.
    """
    versions = {version.number: version for version in registry.versions()}
    wanted = versions.get(number or "")
    for line in log.lines(*MOVES) if number is None else ():
        former = versions.get(line.facts.version, champion)
        if former.number != champion.number and not former.tags.get("rolled_back"):
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
