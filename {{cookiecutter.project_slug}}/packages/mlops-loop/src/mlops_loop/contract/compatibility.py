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
    BREAK: ("bold red", "clients must change before this is served"),
    RETRAIN: ("yellow", "clients need not change; the model must be trained on it"),
    HARMLESS: ("green", "neither clients nor model notice"),
}
# Keys of the table and of a column; all others are texts and tolerances.
TABLE = {
    "task": BREAK,
    "target": BREAK,
    "positive": BREAK,
    "timestamp": RETRAIN,
    "missing": RETRAIN,
}
MEANING = (
    "type",
    "unit",
    "format",
    "decimal",
    "minimum",
    "maximum",
    "categories",
    "allow_unknown",
    "nullable",
)
TAKEN = ("feature", "input")  # what clients send
UNSEEN_BY_MODEL = ("absent", "id", "slice", "ignored")


class Change(NamedTuple):
    """One difference of two contracts: BREAK, RETRAIN or HARMLESS, its key, and what it is."""

    kind: str
    where: str
    what: str


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return how `new` differs from `old`, the worst first."""
    found = [
        Change(TABLE.get(key, HARMLESS), key, says(getattr(old, key), getattr(new, key)))
        for key in Schema.model_fields
        if key != "columns" and getattr(old, key) != getattr(new, key)
    ]
    if list(old.features) != list(new.features) and {*old.features} == {*new.features}:
        found.append(Change(RETRAIN, "columns", "the features are in another order"))
    for name in dict.fromkeys([*old.columns, *new.columns]):
        found += of_column(f"columns.{name}", old.columns.get(name), new.columns.get(name))
    return sorted(found, key=lambda change: list(KINDS).index(change.kind))


def of_column(where: str, old: Column | None, new: Column | None) -> Iterator[Change]:
    before = role_of(old)
    after = role_of(new)
    if old is None or new is None or before != after:
        nullable = new is not None and new.nullable
        words = f"{before} -> {'nullable ' * nullable}{after}"
        yield Change(of_role(before, after, nullable), where, words)
        if old is None or new is None or not {before, after} <= set(TAKEN):
            return
    for key in [key for key in Column.model_fields if key not in ("role", "derived")]:
        if getattr(old, key) != getattr(new, key):
            yield Change(
                of_key(key, old, new), f"{where}.{key}", says(getattr(old, key), getattr(new, key))
            )


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
    return HARMLESS if {before, after} <= set(UNSEEN_BY_MODEL) else RETRAIN


def of_key(key: str, old: Column, new: Column) -> str:
    """Return what the change of a key means for a column that keeps its role."""
    if key not in MEANING or new.role in UNSEEN_BY_MODEL:
        return HARMLESS
    if key == "unit":  # to name one at last changes nothing, but miles are not kilometres
        told = role_of(new) in (*TAKEN, "target")
        return BREAK if old.unit and new.unit and told else HARMLESS
    if (
        new.role == "target" and key == "categories"
    ):  # the classes in the answers; their order is ours
        return BREAK if set(old.categories or ()) != set(new.categories or ()) else HARMLESS
    if role_of(new) not in TAKEN:
        return RETRAIN
    refuses_more = {
        "type": (old.type, new.type) != ("integer", "number"),
        "minimum": old.limits[0] < new.limits[0],
        "maximum": old.limits[1] > new.limits[1],
        "categories": not new.allow_unknown
        and not set(old.categories or ()) <= set(new.categories or ()),
        "allow_unknown": not new.allow_unknown,
        "nullable": not new.nullable,
    }
    return (
        BREAK if refuses_more.get(key) else RETRAIN
    )  # requests have ISO 8601, whatever `format` says


def says(old: object, new: object) -> str:
    """Return a change in words: of lists what went and what came, of all else both values."""
    if not (isinstance(old, tuple) and isinstance(new, tuple)):
        return f"{shown(old)} -> {shown(new)}"
    lists = {"without": [x for x in old if x not in new], "with": [x for x in new if x not in old]}
    return (
        ", ".join(f"{word} {', '.join(some)}" for word, some in lists.items() if some)
        or "in another order"
    )


def shown(value: object) -> str:
    return "none" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def read(place: str) -> Schema:
    """Return the contract in a file, in a git revision, or at REVISION:PATH."""
    if Path(place).is_file():
        content = Path(place).read_bytes()
    else:
        revision = place if ":" in place else f"{place}:./{SCHEMA}"
        try:
            done = subprocess.run(
                ["git", "show", "--end-of-options", revision], capture_output=True
            )
        except FileNotFoundError:
            raise Failure(f"{place!r} is not a file, and git is not installed") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise Failure(f"{place!r} is neither a file nor a git revision with a {SCHEMA}: {said}")
        content = done.stdout
    try:
        return parse_yaml(content.decode(), place, Schema)
    except UnicodeDecodeError:
        raise Failure(f"{place} is not UTF-8 text") from None


def check(old: str, new: str) -> None:
    """Print what changed between two contracts; raise Refusal if a change breaks clients."""
    from rich.table import Table
    from rich.text import Text

    from mlops_loop.base.terminal import open_console  # here, because the server does without

    found = changes(read(old), read(new))
    table = Table("", "where", "what", title=Text(f"From {old} to {new}"), box=None)
    for change in found:
        table.add_row(
            Text(change.kind, KINDS[change.kind][0]), Text(change.where), Text(change.what)
        )
    if found:
        open_console().print(table)
    for kind in dict.fromkeys(change.kind for change in found):
        print(f"{kind}: {KINDS[kind][1]}")
    if breaks := [change.where for change in found if change.kind == BREAK]:
        raise Refusal(f"the API's clients would break: {', '.join(breaks)}")
    print("no change breaks the API's clients" if found else "the contract is the same")
