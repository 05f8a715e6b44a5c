"""Propose the contract of a whole table, and measure the limits that only the whole table shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import SplitParams
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Task
from mlops_loop.data import data_checks, split
from mlops_loop.data.cast import latest_now, typed_sql
from mlops_loop.data.profile import (
    SAMPLE,
    ColumnProfile,
    Profile,
    require_column,
    time_formats,
    unreadable_time,
)
from mlops_loop.onboarding.infer.columns import Proposal, propose
from mlops_loop.onboarding.infer.target import Target, propose_target

MIN_ROWS = 50
MAX_LEAKAGE = 0.99


@dataclass(frozen=True)
class TableProposal:
    """What schema.yaml is to say of a table, apart from the shares of repeated rows."""

    name: str
    target: str
    task: Task
    positive: str | None
    timestamp: str | None
    unique: list[str]
    min_rows: int
    max_leakage: float
    columns: dict[str, Proposal]

    @property
    def reasons(self) -> dict[str, str]:
        return {name: proposal.reason for name, proposal in self.columns.items()}


@dataclass(frozen=True)
class Shares:
    """How many rows repeat another one, and how many test rows the training window has too."""

    duplicates: float
    overlap: float


def propose_table(
    known: Profile, name: str, target: str, timestamp: str | None, task: Task | None
) -> TableProposal:
    """Return the contract that a table suggests; raise Failure if no model can learn from it."""
    if known.rows < MIN_ROWS:
        raise Failure(f"too few rows to learn from: {known.rows:,}, of at least {MIN_ROWS}")
    for column in filter(None, (target, timestamp)):
        require_column(column, list(known.columns))
    refuse_infinite(known.columns)
    found = propose_target(known, target, task)
    columns = propose_columns(known, found, target, timestamp)
    scores = leakage(known, columns, target, found.task)
    for key in [key for key, score in scores.items() if score >= MAX_LEAKAGE]:
        columns[key] = leaking(columns[key].column, scores.pop(key))
    refuse_without_features(columns, target)
    # Another sample of the rows may score a little higher.
    highest = min(1.0, ceil(max(scores.values(), default=0) * 200 + 1) / 200)
    return TableProposal(
        name=name,
        target=target,
        task=found.task,
        positive=found.positive,
        timestamp=timestamp,
        unique=keys_of(columns, known.columns)[:1],
        min_rows=max(1, known.rows // 2),
        max_leakage=max(MAX_LEAKAGE, highest),
        columns=columns,
    )


def propose_columns(
    known: Profile, found: Target, target: str, timestamp: str | None
) -> dict[str, Proposal]:
    """Return a proposal for each column, in the table's order."""
    columns = {}
    for name, seen in known.columns.items():
        if name == target:
            columns[name] = found.proposal
        elif name == timestamp:
            columns[name] = propose_timestamp(seen, known)
        else:
            columns[name] = propose(seen, known)
    return columns


def propose_timestamp(seen: ColumnProfile, known: Profile) -> Proposal:
    if not seen.filled:
        raise Failure(f"the timestamp {seen.name!r} is empty")
    formats = time_formats(known, seen)
    if not formats:
        what = f"cannot be read, for example {unreadable_time(known, seen)}"
        raise Failure(f"the timestamp {seen.name!r} {what}: write it as 2026-12-31 23:59")
    form = formats[0]
    keys: dict[str, str | bool] = {"type": "timestamp", "role": "timestamp"}
    reason = "a time" if seen.kind == "time" else "written as in ISO 8601"
    if form:
        keys["format"] = form
        reason = f"written as {form}"
        others = [other for other in formats[1:] if other and sorted(other) == sorted(form)]
        if others:
            reason += f" - or as {others[0]}, which all values have, too: correct `format` if so"
    if lost := seen.rows - seen.filled:
        keys["nullable"] = True
        reason += f"; the {lost:,} rows without it are left out"
    return Proposal(Column.model_validate(keys), reason)


def leakage(
    known: Profile, columns: Mapping[str, Proposal], target: str, task: Task
) -> dict[str, float]:
    """Return how well each of the features alone tells the target, on a sample of the rows."""
    used = {
        name: proposal.column
        for name, proposal in columns.items()
        if proposal.column.role in ("feature", "target")
    }
    shown = ", ".join(f"t{place}" for place in range(len(used)))
    part = min(1.0, SAMPLE / known.rows)
    few = f"SELECT * FROM rows WHERE hash(rowid) % 1000000 < {ceil(part * 1e6)}"
    rows = typed_sql(known.schema, used).removesuffix("rows") + f"({few})"
    typed = known.query(f"SELECT {shown} FROM ({rows})").rename_columns(list(used))
    features = [name for name in used if name != target]
    return data_checks.leaks(typed.to_pandas(), features, target, task == "regression")


def leaking(column: Column, score: float) -> Proposal:
    ignored = Column.model_validate({"type": column.type, "role": "ignored"})
    reason = f"predicts the target nearly alone, with a score of {score:.3f} of 1: a leak?"
    return Proposal(ignored, reason)


def refuse_without_features(columns: Mapping[str, Proposal], target: str) -> None:
    if any(proposal.column.role == "feature" for proposal in columns.values()):
        return
    others = [f"{name}: {found.reason}" for name, found in columns.items() if name != target]
    what = "; ".join(others[:3]) or "there is no other"
    raise Failure(f"no column is left to learn {target!r} from ({what})")


def keys_of(columns: Mapping[str, Proposal], profiles: Mapping[str, ColumnProfile]) -> list[str]:
    """Return the ids whose every value is different."""
    ids = [name for name, proposal in columns.items() if proposal.column.role == "id"]
    return [name for name in ids if profiles[name].unique]


def refuse_infinite(profiles: Mapping[str, ColumnProfile]) -> None:
    for name, seen in profiles.items():
        if seen.infinite and seen.number:
            what = "leave them empty at the source, or put in the largest value that makes sense"
            raise Failure(f"the column {name!r} holds {seen.infinite:,} infinite values: {what}")


def measure_shares(known: Profile, schema: Schema, params: SplitParams) -> Shares:
    """Return the shares of repeated rows of a whole table.

    Raises Failure if a class does not occur in the training window, or a time is in the future.
    """
    by = schema.timestamp or schema.target
    names = list(schema.used)
    learnt = [names.index(name) for name in (*schema.features, schema.target)]
    every = ", ".join(f"t{place}" for place in range(len(names)))
    shown = [f"hash({every}) AS h", f"hash({', '.join(f't{place}' for place in learnt)}) AS l"]
    shown += [f"t{names.index(name)} AS v{n}" for n, name in enumerate((by, schema.target))]
    found = known.query(f"SELECT {', '.join(shown)} FROM ({typed_sql(known.schema, schema.used)})")
    values = pd.DataFrame({by: found["v0"].to_pandas(), schema.target: found["v1"].to_pandas()})
    places = split.split_rows(values[by], schema, params)
    refuse_future(values, schema)
    refuse_absent_class(values, places, schema)
    facts = found["l"].to_numpy()
    overlap = np.isin(facts[places == 2], facts[places == 0])
    repeated = data_checks.repeated(found["h"].to_numpy())
    return Shares(float(repeated.mean()), float(overlap.mean()))


def refuse_future(values: pd.DataFrame, schema: Schema) -> None:
    if not schema.timestamp:
        return
    when = values[schema.timestamp]
    if late := int((when > latest_now()).sum()):
        what = f"is in the future in {late:,} rows, up to {when.max()}"
        raise Failure(f"the timestamp {schema.timestamp!r} {what}: leave those out at the source")


def refuse_absent_class(values: pd.DataFrame, places: split.Places, schema: Schema) -> None:
    """Refuse a training window without some class, and other windows with fewer than two."""
    for place, window in enumerate(split.SPLITS if schema.classes else ()):
        found = {*values[schema.target][places == place].unique()}
        absent = sorted({*schema.classes} - found)
        if absent and (place == 0 or len(absent) > len(schema.classes) - 2):
            what = f"the target {schema.target!r} is {absent[0]!r} in no row of the {window} window"
            raise Failure(f"{what}: split at random, without --timestamp, or leave that class out")
