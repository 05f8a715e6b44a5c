"""Propose the contract of a whole table, and measure the limits that only the whole table shows."""

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from math import ceil

import numpy as np
import pandas as pd

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import SplitParams
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Task
from mlops_loop.contract.versions import VERSION
from mlops_loop.data import data_checks, split
from mlops_loop.data.cast import cells, latest_now
from mlops_loop.data.profile import ColumnProfile, Profile
from mlops_loop.onboarding.infer.columns import Proposal, ignored, propose, used
from mlops_loop.onboarding.infer.target import propose_target
from mlops_loop.onboarding.infer.times import time_formats, unreadable_time

MIN_ROWS = 50
MAX_LEAKAGE = 0.99


def propose_table(
    known: Profile, name: str, target: str, timestamp: str | None, task: Task | None
) -> tuple[Schema, dict[str, Proposal]]:
    """Return the contract that a table suggests, and why each column is what it is.

    Raises Failure if no model can learn from the table.
    """
    if known.rows < MIN_ROWS:
        raise Failure(f"too few rows to learn from: {known.rows:,}, of at least {MIN_ROWS}")
    for column in filter(None, (target, timestamp)):
        require_column(column, list(known.columns))
    refuse_infinite(known.columns)
    found = propose_target(known, target, task)
    columns = {column: propose(seen, known) for column, seen in known.columns.items()}
    columns[target] = found.proposal
    if timestamp:
        columns[timestamp] = propose_timestamp(known.columns[timestamp], known)
    scores = leakage(known, columns, target, found.task == "regression")
    for key in [key for key, score in scores.items() if score >= MAX_LEAKAGE]:
        what = f"predicts the target nearly alone, with a score of {scores.pop(key):.3f} of 1"
        columns[key] = ignored(columns[key].column.type, f"{what}: a leak?")
    refuse_without_features(columns, target)
    ids = [key for key, proposal in columns.items() if proposal.column.role == "id"]
    # Another sample of the rows may score a little higher.
    highest = min(1.0, ceil(max(scores.values(), default=0) * 200 + 1) / 200)
    about = {
        "mlops_loop": ".".join(VERSION.split(".")[:2]),
        "name": name,
        "task": found.task,
        "positive": found.positive,
        "target": target,
        "timestamp": timestamp,
        "unique": [key for key in ids if known.columns[key].unique][:1],
        "min_rows": max(1, known.rows // 2),
        "max_leakage": max(MAX_LEAKAGE, highest),
    }
    contract = {key: proposal.column for key, proposal in columns.items()}
    return Schema.model_validate({"columns": contract, **about}), columns


def propose_timestamp(seen: ColumnProfile, known: Profile) -> Proposal:
    if not seen.filled:
        raise Failure(f"the timestamp {seen.name!r} is empty")
    formats = time_formats(known, seen)
    if not formats:
        what = f"cannot be read, for example {unreadable_time(known, seen)}"
        raise Failure(f"the timestamp {seen.name!r} {what}: write it as 2026-12-31 23:59")
    form = formats[0]
    reason = "a time" if seen.kind == "time" else "written as in ISO 8601"
    found = used(reason, type="timestamp", role="timestamp")
    if form:
        reason = f"written as {form}"
        others = [other for other in formats[1:] if other and sorted(other) == sorted(form)]
        if others:
            reason += f" - or as {others[0]}, which all values have, too: correct `format` if so"
        found = found.with_keys(reason, format=form)
    if lost := seen.rows - seen.filled:
        reason = f"{found.reason}; the {lost:,} rows without it are left out"
        found = found.with_keys(reason, nullable=True)
    return found


def typed(known: Profile, columns: Mapping[str, Column]) -> str:
    """Return the query for columns of the table in the contract's types: t0, t1, ..."""
    found = cells(known.table, columns)
    parts = [f"{found[name].typed} AS t{place}" for place, name in enumerate(columns)]
    return f"SELECT {', '.join(parts)} FROM rows"


def leakage(
    known: Profile, proposals: Mapping[str, Proposal], target: str, regression: bool
) -> dict[str, float]:
    """Return how well each of the features alone tells the target, on a sample of the rows."""
    columns = {name: proposal.column for name, proposal in proposals.items()}
    learnt = {name: one for name, one in columns.items() if one.role in ("feature", "target")}
    part = ceil(1e6 * data_checks.LEAK_ROWS / known.rows)
    some = f"{typed(known, learnt)} WHERE hash(rowid) % 1000000 < {part}"
    sample = known.table.connection.sql(some).to_arrow_table()
    features = [name for name in learnt if name != target]
    table = sample.rename_columns(list(learnt)).to_pandas()
    return data_checks.leaks(table, features, target, regression)


def refuse_without_features(columns: Mapping[str, Proposal], target: str) -> None:
    if any(proposal.column.role == "feature" for proposal in columns.values()):
        return
    others = [f"{name}: {found.reason}" for name, found in columns.items() if name != target]
    what = "; ".join(others[:3]) or "there is no other"
    raise Failure(f"no column is left to learn {target!r} from ({what})")


def refuse_infinite(profiles: Mapping[str, ColumnProfile]) -> None:
    for name, seen in profiles.items():
        if seen.infinite and seen.number:
            what = "leave them empty at the source, or put in the largest value that makes sense"
            raise Failure(f"the column {name!r} holds {seen.infinite:,} infinite values: {what}")


def with_shares(schema: Schema, known: Profile, params: SplitParams) -> Schema:
    """Return the contract with limits for repeated rows, measured on the whole table.

    Raises Failure if a class does not occur in the training window, or a time is in the future.
    """
    shown = {name: f"t{place}" for place, name in enumerate(schema.used)}
    learnt = [shown[name] for name in (*schema.features, schema.target)]
    by, target = shown[schema.timestamp or schema.target], shown[schema.target]
    asked = f"hash({', '.join(shown.values())}) AS h, hash({', '.join(learnt)}) AS l"
    rows = f"({typed(known, schema.used)})"
    asked = f"SELECT {asked}, {by} AS b, {target} AS y FROM {rows}"
    found = known.table.connection.sql(asked).to_arrow_table().to_pandas()
    places = split.split_rows(found["b"], schema, params)
    if schema.timestamp and (late := int((found["b"] > latest_now()).sum())):
        what = f"is in the future in {late:,} rows, up to {found['b'].max()}"
        raise Failure(f"the timestamp {schema.timestamp!r} {what}: leave those out at the source")
    labels = found["y"] if schema.classes else pd.Series("", found.index)
    windows = [labels[places == place] for place in range(len(split.SPLITS))]
    counts = [Counter(window.value_counts().to_dict()) for window in windows]
    split.check(counts, schema, "split at random, without --timestamp, or leave a class out")
    overlap = np.isin(found["l"][places == 2], found["l"][places == 0]).mean()
    duplicates = found["h"].duplicated().mean()
    limits = {"max_duplicates": allowed(duplicates), "max_overlap": allowed(overlap)}
    return schema.model_copy(update=limits)


def allowed(share: float) -> float:
    """Return a limit for a share that has slack for other rows, and can be exceeded."""
    return min(ceil((1.5 * share + 0.01) * 1000), ceil((1 + share) / 2 * 1000)) / 1000


def require_column(name: str, names: list[str]) -> None:
    if name not in names:
        close = get_close_matches(name, names, 3, 0.5)
        hint = "did you mean" if close else "there are"
        shown = ", ".join(map(repr, close or names[:10]))
        raise Failure(f"there is no column {name!r}; {hint} {shown}")
