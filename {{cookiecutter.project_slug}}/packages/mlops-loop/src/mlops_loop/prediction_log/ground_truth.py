"""Record ground truth: what really happened to predicted rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from mlops_loop.contract.values import Value
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS, lock_database, select_by_id


class Recorded(NamedTuple):
    """How many outcomes were new, there already, or replaced; positions of unknown ids."""

    recorded: int
    repeated: int
    corrected: int
    unknown: list[int]


class Plan(NamedTuple):
    """Values to insert and to update, by prediction id, and what the caller is told."""

    new: dict[str, Value]
    changed: dict[str, Value]
    result: Recorded


def record_ground_truth(engine: sa.Engine, pairs: Sequence[tuple[str, Value]]) -> Recorded:
    """Record (prediction id, value) pairs, all in one transaction.

    A value that differs from the recorded one replaces it. Unknown ids are left out.
    """
    # No database takes texts that are not printable.
    ids = list({name for name, _ in pairs if name.isprintable()})
    with engine.begin() as connection:
        lock_database(connection)
        known = set(select_by_id(connection, PREDICTIONS.c.id, ids))
        stored = select_by_id(connection, OUTCOMES.c.prediction_id, ids, OUTCOMES.c.value)
        plan = plan_changes(pairs, known, {name: row[0] for name, row in stored.items()})
        write(connection, plan)
    return plan.result


def plan_changes(
    pairs: Sequence[tuple[str, Value]], known: set[str], stored: dict[str, Value]
) -> Plan:
    values = dict(stored)
    unknown = []
    repeated = corrected = 0
    for position, (name, value) in enumerate(pairs):
        if name not in known:
            unknown.append(position)
        elif name not in values:
            values[name] = value
        elif values[name] == value:
            repeated += 1
        else:
            corrected += 1
            values[name] = value
    new = {name: value for name, value in values.items() if name not in stored}
    changed = {name: values[name] for name in stored if values[name] != stored[name]}
    return Plan(new, changed, Recorded(len(new), repeated, corrected, unknown))


def write(connection: sa.Connection, plan: Plan) -> None:
    now = datetime.now(UTC)
    if plan.new:
        rows = [{"prediction_id": n, "value": v, "time": now} for n, v in plan.new.items()]
        connection.execute(sa.insert(OUTCOMES), rows)
    if plan.changed:
        same_id = OUTCOMES.c.prediction_id == sa.bindparam("key")
        rows = [{"key": n, "value": v, "time": now} for n, v in plan.changed.items()]
        connection.execute(sa.update(OUTCOMES).where(same_id), rows)
