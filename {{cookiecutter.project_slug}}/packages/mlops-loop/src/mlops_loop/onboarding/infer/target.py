"""Propose the target's column, the task that follows from it, and the positive class."""

import re
from dataclasses import dataclass, replace
from math import floor

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import LARGEST, Column
from mlops_loop.contract.values import Task
from mlops_loop.data.profile import ColumnProfile, Profile
from mlops_loop.onboarding.infer.columns import (
    Proposal,
    categories_of,
    limits,
    misspelt,
    number_of,
    propose_comma,
)

MAX_CLASSES = 50
FEW_NUMBERS = 10  # whole numbers up to which they are classes
FEWEST = 3  # rows of a class: one for each window
YES = (
    *("1", "true", "yes", "y", "t", "positive", "late", "churned", "default", "fraud", "spam"),
    *(">50k", "malignant"),
)


@dataclass(frozen=True)
class Target:
    proposal: Proposal
    task: Task
    positive: str | None = None


def propose_target(profile: Profile, name: str, task: Task | None) -> Target:
    """Return the target's proposal; raise Failure if it cannot be predicted, or not as `task`."""
    seen = profile.columns[name]
    refuse_unpredictable(name, seen)
    if task != "regression" and not seen.number:
        seen = without_stand_ins(seen)
    if task == "regression" or (task is None and is_measure(seen)):
        found = propose_value(name, seen, profile)
    else:
        found = propose_classes(name, seen, task)
    if lost := seen.rows - seen.filled:
        named = ", ".join(map(repr, seen.stand_ins))
        without = f"without it or with {named}" if named else "without it"
        reason = f"{found.proposal.reason}; the {lost:,} rows {without} are left out"
        proposal = found.proposal.with_keys(reason, nullable=True)
        return Target(proposal, found.task, found.positive)
    return found


def without_stand_ins(seen: ColumnProfile) -> ColumnProfile:
    """Return a target of classes without the texts that stand for a missing label.

    `none` may be the mildest of several words, and NA a country among others.
    """
    classes = [value for value in seen.counts if value not in seen.stand_ins]
    countries = len(classes) > 2 and all(re.fullmatch("[A-Z]{2}", value) for value in classes)
    words = len(classes) > 1 and not {"yes", "no", "true", "false", "0", "1"} & {
        *map(str.lower, classes)
    }
    kept = {"NA"} if countries else set[str]()
    kept |= {"none", "None"} if words else set[str]()
    back = {value: n for value, n in seen.stand_ins.items() if value in kept}
    gone = {value: n for value, n in seen.stand_ins.items() if value not in kept}
    counts = {value: n for value, n in seen.counts.items() if value not in gone}
    different = seen.different - (len(seen.counts) - len(counts))
    filled = seen.filled + sum(back.values())
    return replace(seen, counts=counts, stand_ins=gone, different=different, filled=filled)


def refuse_unpredictable(name: str, seen: ColumnProfile) -> None:
    if not seen.filled:
        raise Failure(f"the target {name!r} is empty: there is nothing to learn")
    if seen.kind in ("time", "other"):
        what = "it is neither a class nor a number"
        raise Failure(f"the target {name!r} cannot be predicted: {what}")
    if len(seen.counts) == 1 and seen.different == 1:
        value = next(iter(seen.counts))
        raise Failure(f"the target {name!r} is always {value}: there is nothing to predict")


def is_measure(seen: ColumnProfile) -> bool:
    """Return whether a target that is a number is to be predicted as one, and not as a class."""
    different = seen.different
    if seen.comma or misspelt(seen):
        return True
    return seen.number and different > 2 and not (seen.whole and different <= FEW_NUMBERS)


def propose_value(name: str, seen: ColumnProfile, profile: Profile) -> Target:
    if seen.comma:
        return Target(as_target(propose_comma(seen, profile)), "regression")
    if wrong := misspelt(seen):
        raise Failure(f"the target {name!r} holds {wrong}")
    if not seen.number:
        what = f"{example(seen)} is none"
        raise Failure(f"the target {name!r} of a regression must be a number: {what}")
    if max(-seen.low, seen.high) > LARGEST:
        raise Failure(f"the target {name!r} goes beyond {LARGEST:.1e}: choose another unit")
    kind = "integer" if seen.whole else "number"
    keys = {"type": kind, "role": "target", **limits(seen.low, seen.high, seen.whole)}
    reason = f"{number_of(seen)} different numbers, from {seen.low:.8g} to {seen.high:.8g}"
    return Target(Proposal(Column.model_validate(keys), reason), "regression")


def as_target(found: Proposal) -> Proposal:
    return found.with_keys(found.reason, role="target")


def example(seen: ColumnProfile) -> str:
    """Return a value that is no number."""
    return repr(seen.spelling.other) if seen.spelling.other else "a truth value"


def propose_classes(name: str, seen: ColumnProfile, task: Task | None) -> Target:
    """Return the classes, less those with hardly a row: each window needs one."""
    counts = categories_of(seen)
    if len(counts) > MAX_CLASSES:
        what = f"{number_of(seen)} classes, {MAX_CLASSES} is the limit"
        raise Failure(f"the target {name!r} has {what}: group them at the source")
    classes = [text for text, count in counts.items() if count >= FEWEST]
    if len(classes) < 2:
        what = f"the target {name!r} has {len(classes)} classes of at least {FEWEST} rows"
        raise Failure(f"{what}: training, validation and test need one each")
    found: Task = "binary-classification" if len(classes) == 2 else "multiclass-classification"
    if task not in (None, found):
        what = f"the target {name!r} has {len(classes)} classes"
        raise Failure(f"{what}, which do not go with {task}: leave --task out")
    rare = min(classes, key=lambda text: counts[text])
    reason = (
        f"{len(classes)} classes, the rarest {rare!r} in {counts[rare] / seen.rows:.1%} of the rows"
    )
    keys: dict[str, str | float | list[str]] = {
        "type": "category",
        "role": "target",
        "categories": classes,
    }
    if gone := [text for text in counts if text not in classes]:
        lost = sum(counts[text] for text in gone)
        keys["mostly"] = floor((1 - 2 * lost / seen.rows) * 1000) / 1000
        reason += f"; {', '.join(map(repr, gone))} with fewer than {FEWEST} rows left out"
    positive = positive_class(classes, rare) if len(classes) == 2 else None
    return Target(Proposal(Column.model_validate(keys), reason), found, positive)


def positive_class(classes: list[str], rare: str) -> str:
    """Return the class whose name means yes, or else the rarer one."""
    yes = [text for text in classes if text.strip().strip(".").casefold() in YES]
    return yes[0] if len(yes) == 1 else rare
