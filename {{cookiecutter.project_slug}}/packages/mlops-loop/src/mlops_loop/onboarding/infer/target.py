"""Propose the target's column, the task that follows from it, and the positive class."""

import re
from dataclasses import replace
from math import floor
from typing import NamedTuple

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import LARGEST
from mlops_loop.contract.values import Task
from mlops_loop.data.profile import ColumnProfile, Profile
from mlops_loop.onboarding.infer.columns import (
    Proposal,
    categories_of,
    limits,
    misspelt,
    number_of,
    propose_comma,
    used,
)

MAX_CLASSES = 50
FEW_NUMBERS = 10  # whole numbers up to which they are classes
FEWEST = 3  # rows of a class: one for each window
YES = (
    *("1", "true", "yes", "y", "t", "positive", "late", "churned", "default", "fraud", "spam"),
    *(">50k", "malignant"),
)


class Target(NamedTuple):
    proposal: Proposal
    task: Task
    positive: str | None = None


def propose_target(profile: Profile, name: str, task: Task | None) -> Target:
    """Return the target's proposal; raise Failure if it cannot be predicted, or not as `task`."""
    try:
        return propose_task(profile.columns[name], profile, task)
    except Unfit as unfit:
        raise Failure(f"the target {name!r} {unfit}") from None


class Unfit(Exception):
    """Why a column is no target."""


def propose_task(seen: ColumnProfile, profile: Profile, task: Task | None) -> Target:
    if not seen.filled:
        raise Unfit("is empty: there is nothing to learn")
    if seen.kind in ("time", "other"):
        raise Unfit("cannot be predicted: it is neither a class nor a number")
    if len(seen.counts) == 1 and seen.different == 1:
        raise Unfit(f"is always {next(iter(seen.counts))}: there is nothing to predict")
    few = seen.different <= 2 or (seen.whole and seen.different <= FEW_NUMBERS)
    measure = seen.comma or misspelt(seen) or (seen.number and not few)
    if task == "regression" or (task is None and measure):
        found = Target(propose_value(seen, profile), "regression")
    else:
        seen = seen if seen.number else without_stand_ins(seen)
        found = propose_classes(seen, task)
    if lost := seen.rows - seen.filled:
        named = ", ".join(map(repr, seen.stand_ins))
        without = f"without it or with {named}" if named else "without it"
        reason = f"{found.proposal.reason}; the {lost:,} rows {without} are left out"
        return found._replace(proposal=found.proposal.with_keys(reason, nullable=True))
    return found


def without_stand_ins(seen: ColumnProfile) -> ColumnProfile:
    """Return a target of classes without the texts that stand for a missing label.

    `none` may be the mildest of several words, and NA a country among others.
    """
    classes = [value for value in seen.counts if value not in seen.stand_ins]
    usual = {"yes", "no", "true", "false", "0", "1"} & {value.lower() for value in classes}
    kept = {"none", "None"} if len(classes) > 1 and not usual else set[str]()
    if len(classes) > 2 and all(re.fullmatch("[A-Z]{2}", value) for value in classes):
        kept |= {"NA"}
    gone = {value: n for value, n in seen.stand_ins.items() if value not in kept}
    counts = {value: n for value, n in seen.counts.items() if value not in gone}
    different = seen.different - (len(seen.counts) - len(counts))
    filled = seen.filled + sum(seen.stand_ins.values()) - sum(gone.values())
    return replace(seen, counts=counts, stand_ins=gone, different=different, filled=filled)


def propose_value(seen: ColumnProfile, profile: Profile) -> Proposal:
    if seen.comma:
        found = propose_comma(seen, profile)
        return found.with_keys(found.reason, role="target")
    if wrong := misspelt(seen):
        raise Unfit(f"holds {wrong}")
    if not seen.number:
        what = f"{repr(seen.other) if seen.other else 'a truth value'} is none"
        raise Unfit(f"of a regression must be a number: {what}")
    if max(-seen.low, seen.high) > LARGEST:
        raise Unfit(f"goes beyond {LARGEST:.1e}: choose another unit")
    kind = "integer" if seen.whole else "number"
    reason = f"{number_of(seen)} different numbers, from {seen.low:.8g} to {seen.high:.8g}"
    return used(reason, type=kind, role="target", **limits(seen.low, seen.high, seen.whole))


def propose_classes(seen: ColumnProfile, task: Task | None) -> Target:
    """Return the classes, less those with hardly a row: each window needs one."""
    counts = categories_of(seen)
    if len(counts) > MAX_CLASSES:
        limit = f"{MAX_CLASSES} is the limit: group them at the source"
        raise Unfit(f"has {number_of(seen)} classes, {limit}")
    classes = [text for text, count in counts.items() if count >= FEWEST]
    has = f"has {len(classes)} classes"
    if len(classes) < 2:
        what = "training, validation and test need one each"
        raise Unfit(f"{has} of at least {FEWEST} rows: {what}")
    found: Task = "binary-classification" if len(classes) == 2 else "multiclass-classification"
    if task not in (None, found):
        raise Unfit(f"{has}, which do not go with {task}: leave --task out")
    rare = min(classes, key=lambda text: counts[text])
    share = f"{counts[rare] / seen.rows:.1%} of the rows"
    reason = f"{len(classes)} classes, the rarest {rare!r} in {share}"
    kept: dict[str, float] = {}
    if gone := [text for text in counts if text not in classes]:
        lost = sum(counts[text] for text in gone)
        reason += f"; {', '.join(map(repr, gone))} with fewer than {FEWEST} rows left out"
        kept["mostly"] = floor((1 - 2 * lost / seen.rows) * 1000) / 1000
    proposal = used(reason, type="category", role="target", categories=classes, **kept)
    yes = [text for text in classes if text.strip().strip(".").casefold() in YES]
    positive = yes[0] if len(yes) == 1 else rare  # the class whose name means yes, or the rarer
    return Target(proposal, found, positive if len(classes) == 2 else None)
