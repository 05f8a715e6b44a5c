"""Compatibility: what a change of the contract means for the API's clients and for the model.

Clients send features, and get the target's classes or values. So a change breaks them if a request
that is valid today is refused tomorrow, or if numbers or answers that look the same mean something
else.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.schema import Column, Schema

BREAK = "break"
RETRAIN = "retrain"
HARMLESS = "harmless"
KINDS = {
    BREAK: "clients must change before this is served",
    RETRAIN: "clients need not change; the model must be trained on it",
    HARMLESS: "neither clients nor model notice",
}
# Keys of the table; all others are texts and tolerances.
TABLE = dict.fromkeys(("task", "target", "positive"), BREAK)
TABLE |= dict.fromkeys(("timestamp", "missing"), RETRAIN)
TAKEN = {"feature", "input"}  # what clients send
UNSEEN_BY_MODEL = {"absent", "id", "slice", "ignored"}


class Change(NamedTuple):
    """One difference of two contracts: BREAK, RETRAIN or HARMLESS, its key, and what it is."""

    kind: str
    where: str
    what: str


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return how `new` differs from `old`, the worst first."""
    found = [
        Change(TABLE.get(key, HARMLESS), key, difference(getattr(old, key), getattr(new, key)))
        for key in Schema.model_fields
        if key != "columns" and getattr(old, key) != getattr(new, key)
    ]
    if list(old.features) != list(new.features) and {*old.features} == {*new.features}:
        found.append(Change(RETRAIN, "columns", "the features are in another order"))
    for name in old.columns | new.columns:
        found += of_column(f"columns.{name}", old.columns.get(name), new.columns.get(name))
    return sorted(found, key=lambda change: list(KINDS).index(change.kind))


def of_column(where: str, old: Column | None, new: Column | None) -> Iterator[Change]:
    before, after = role_of(old), role_of(new)
    if before != after:
        nullable = new is not None and new.nullable
        words = f"{before} -> {'nullable ' * nullable}{after}"
        yield Change(of_role(before, after, nullable), where, words)
    if old and new and (before == after or {before, after} <= TAKEN):
        kinds = of_keys(old, new)
        for key in Column.model_fields:
            was, value = getattr(old, key), getattr(new, key)
            if was != value and key not in ("role", "derived"):
                kind = HARMLESS if new.role in UNSEEN_BY_MODEL else kinds.get(key, HARMLESS)
                yield Change(kind, f"{where}.{key}", difference(was, value))


def role_of(column: Column | None) -> str:
    """Return a column's role; clients neither send nor see what is derived."""
    if column is None:
        return "absent"
    return f"derived {column.role}" if column.derived else column.role


def of_role(before: str, after: str, nullable: bool) -> str:
    """Return what it means that a column comes, goes or changes its role."""
    if before in TAKEN and after not in TAKEN:
        return BREAK  # the API refuses columns that are no inputs
    if after in TAKEN and before not in TAKEN:
        return RETRAIN if nullable else BREAK  # a request may leave out what is nullable
    return HARMLESS if {before, after} <= UNSEEN_BY_MODEL else RETRAIN


def of_keys(old: Column, new: Column) -> dict[str, str]:
    """Return what it means that a key changes which is no text or tolerance, the role being kept.

    Requests have ISO 8601 and JSON's numbers, whatever the format and the decimal sign of a file.
    """
    role = role_of(new)
    unknown = set(old.categories or ()) - set(new.categories or ())
    refused = {  # whether requests are refused now
        **dict.fromkeys(("format", "decimal"), False),
        "type": (old.type, new.type) != ("integer", "number"),
        "minimum": old.limits[0] < new.limits[0],
        "maximum": old.limits[1] > new.limits[1],
        "categories": bool(unknown) and not new.allow_unknown,
        "allow_unknown": not new.allow_unknown,
        "nullable": not new.nullable,
    }
    kinds = {key: BREAK if no and role in TAKEN else RETRAIN for key, no in refused.items()}
    # To name a unit at last changes nothing, but miles are not kilometres.
    renamed = old.unit and new.unit and role in TAKEN | {"target"}
    kinds["unit"] = BREAK if renamed else HARMLESS
    if role == "target":  # the answers have the classes in an order of our own
        same = set(old.categories or ()) == set(new.categories or ())
        kinds["categories"] = HARMLESS if same else BREAK
    return kinds


def difference(old: object, new: object) -> str:
    """Return a change in words: of lists what went and what came, of all else both values."""
    if not (isinstance(old, tuple) and isinstance(new, tuple)):
        return f"{shown(old)} -> {shown(new)}"
    lists = {"without": [x for x in old if x not in new], "with": [x for x in new if x not in old]}
    words = [f"{word} {', '.join(values)}" for word, values in lists.items() if values]
    return ", ".join(words) or "in another order"


def shown(value: object) -> str:
    return "none" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def read(place: str) -> Schema:
    """Return the contract in a file, in a git revision, or at REVISION:PATH."""
    content = Path(place).read_bytes() if Path(place).is_file() else committed(place)
    try:
        return parse_yaml(content.decode(), place, Schema)
    except UnicodeDecodeError:
        raise Failure(f"{place} is not UTF-8 text") from None


def committed(place: str) -> bytes:
    at = place if ":" in place else f"{place}:./{SCHEMA}"
    try:
        done = subprocess.run(["git", "show", "--end-of-options", at], capture_output=True)
    except FileNotFoundError:
        raise Failure(f"{place!r} is not a file, and git is not installed") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise Failure(f"{place!r} is neither a file nor a git revision with a {SCHEMA}: {said}")
    return done.stdout


def check(old: str, new: str) -> None:
    """Print what changed between two contracts; raise Refusal if a change breaks clients."""
    found = changes(read(old), read(new))
    for kind, where, what in found:
        print(f"{kind:<8}  {where:<30}  {what}")
    for kind in dict.fromkeys(change.kind for change in found):
        print(f"{kind}: {KINDS[kind]}")
    if breaks := [change.where for change in found if change.kind == BREAK]:
        raise Refusal(f"the API's clients would break: {', '.join(breaks)}")
    print("no change breaks the API's clients" if found else "the contract is the same")
