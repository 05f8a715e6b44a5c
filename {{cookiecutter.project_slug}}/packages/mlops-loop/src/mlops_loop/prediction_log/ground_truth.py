"""Record ground truth: what really happened to predicted rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from mlops_loop.contract.values import Value
from mlops_loop.prediction_log.tables import (
    IDS_PER_STATEMENT,
    OUTCOMES,
    PREDICTIONS,
    insert,
    lock_database,
)


class Recorded(NamedTuple):
    """How many outcomes were new, there already, or replaced; positions of unknown ids."""

    recorded: int
    repeated: int
    corrected: int
    unknown: list[int]


def record_ground_truth(engine: sa.Engine, pairs: Sequence[tuple[str, Value]]) -> Recorded:
    """Record (prediction id, value) pairs, all in one transaction.

    A value that differs from the recorded one replaces it. Unknown ids are left out.
    """
    changed: dict[str, Value] = {}
    repeated = 0
    with engine.begin() as connection:
        lock_database(connection)
        values = read_values(connection, {name for name, _ in pairs})
        unknown = [place for place, (name, _) in enumerate(pairs) if name not in values]
        recorded = list(values.values()).count(None)
        for name, value in pairs:
            if name in values and values[name] == value:
                repeated += 1
            elif name in values:
                values[name] = changed[name] = value
        if changed:
            write_values(connection, changed)
    corrected = len(pairs) - len(unknown) - repeated - recorded
    return Recorded(recorded, repeated, corrected, unknown)


def read_values(connection: sa.Connection, ids: set[str]) -> dict[str, Value]:
    """Return the recorded value of each id that is in the log; None where there is none yet."""
    printable = [name for name in ids if name.isprintable()]  # no database takes others
    joined = sa.outerjoin(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == PREDICTIONS.c.id)
    query = sa.select(PREDICTIONS.c.id, OUTCOMES.c.value).select_from(joined)
    values: dict[str, Value] = {}
    for start in range(0, len(printable), IDS_PER_STATEMENT):
        some = PREDICTIONS.c.id.in_(printable[start : start + IDS_PER_STATEMENT])
        values |= {row[0]: row[1] for row in connection.execute(query.where(some))}
    return values


def write_values(connection: sa.Connection, values: dict[str, Value]) -> None:
    now = datetime.now(UTC)
    statement = insert(connection, OUTCOMES.name)
    new = {"value": statement.excluded.value, "time": statement.excluded.time}
    statement = statement.on_conflict_do_update(index_elements=["prediction_id"], set_=new)
    rows = [{"prediction_id": n, "value": value, "time": now} for n, value in values.items()]
    connection.execute(statement, rows)
