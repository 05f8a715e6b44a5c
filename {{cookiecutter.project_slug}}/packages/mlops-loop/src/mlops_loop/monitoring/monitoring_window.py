"""Window: what the prediction log holds of a stretch of time: counts of all of it, and a sample of rows."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.derived import derive
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS

REQUEST = 28  # digits of a prediction's id that name its request
EARLIER = 4  # windows before this one that say how many rows are usual
COLUMNS = PREDICTIONS.c
Place = tuple[str, str]


class Window(NamedTuple):
    """`answered` has a row for each sampled prediction: time, features and output. `labelled`, of those of
    one version whose outcome is known, also value, recorded (its time) and answered (the prediction's id)."""

    start: datetime  # UTC
    end: datetime  # UTC, exclusive
    rows: int
    requests: int
    versions: dict[str, int]  # rows by model version
    earlier: list[int]  # rows of the windows before this one, the newest first
    refused: dict[Place, int]  # requests by what was wrong and the column where
    answered: pd.DataFrame
    others: int  # sampled rows that answer another question, as another contract asked it: not in `answered`
    known: int  # outcomes of all rows
    labelled: pd.DataFrame


def read_window(
    engine: sa.Engine, start: datetime, end: datetime, version: str, schema: Schema, most: int
) -> Window:
    """Return the window; at most `most` rows leave the database, chosen by chance but each time the same.

    Shadows are left out. Raises Failure if the log cannot be read.
    """
    inside = between(start, end)
    try:
        with engine.connect() as connection:
            hashing(connection)
            versions, requests = count(connection, inside)
            joined = sa.join(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == COLUMNS.id)
            known = connection.scalar(sa.select(sa.func.count()).select_from(joined).where(inside))
            columns = COLUMNS.time, COLUMNS.features, COLUMNS.output
            answered = sample(connection, PREDICTIONS, inside, columns, most)
            truth = (
                COLUMNS.id.label("answered"),
                OUTCOMES.c.value,
                OUTCOMES.c.time.label("recorded"),
            )
            mine = inside & (COLUMNS.model_version == version)
            labelled = sample(connection, joined, mine, (*columns, *truth), most)
            length, earlier = end - start, []
            for number in range(1, EARLIER + 1):
                before = between(start - number * length, end - number * length)
                earlier.append(connection.scalar(sa.select(sa.func.count()).where(before)) or 0)
        refused = count_rejected(engine, start, end)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    counts = sum(versions.values()), requests, versions, earlier, refused
    mine, labelled = fitting(answered, schema), fitting(labelled, schema)
    others = len(answered) - len(mine)
    return Window(
        start, end, *counts, table(mine, schema), others, known or 0, table(labelled, schema)
    )


def between(start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    return (COLUMNS.time >= start) & (COLUMNS.time < end) & (COLUMNS.variant != "shadow")


def hashing(connection: sa.Connection) -> None:
    """Give SQLite the function that PostgreSQL has: rows in the order of their hash are in a random order."""
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        md5 = lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()  # noqa: E731
        driver.create_function("md5", 1, md5, deterministic=True)


def count(connection: sa.Connection, inside: sa.ColumnElement[bool]) -> tuple[dict[str, int], int]:
    """Return the number of rows by model version, and that of the requests."""
    requests = sa.func.count(sa.distinct(sa.func.substr(COLUMNS.id, 1, REQUEST)))
    query = sa.select(COLUMNS.model_version, sa.func.count(), requests).where(inside)
    found = connection.execute(query.group_by(COLUMNS.model_version)).all()
    return {version: rows for version, rows, _ in found}, sum(each for *_, each in found)


def sample(
    connection: sa.Connection,
    source: sa.FromClause,
    wanted: sa.ColumnElement[bool],
    columns: Sequence[sa.ColumnElement[Any]],
    most: int,
) -> pd.DataFrame:
    """Return columns of at most `most` rows, in order of time."""
    chosen = sa.select(COLUMNS.id).select_from(source).where(wanted)
    chosen = chosen.order_by(sa.func.md5(COLUMNS.id)).limit(most)
    query = sa.select(*columns).select_from(source).where(COLUMNS.id.in_(chosen))
    rows = list(connection.execute(query.order_by(COLUMNS.time, COLUMNS.id)))
    return pd.DataFrame(rows, columns=[column.name for column in columns])


def fitting(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows that were asked and answered as the contract says, and not as another one did."""
    pairs = zip(rows["features"], rows["output"], strict=True)
    return rows.loc[[fits(*pair, schema) for pair in pairs]]


def fits(features: dict[str, Any], output: dict[str, Any], schema: Schema) -> bool:
    """Return whether features and answer are those of the contract; it may have grown by a nullable one."""
    columns, classes = {name: schema.inputs[name] for name in sent(schema)}, set(schema.classes)
    if not (set(output.get("probabilities", ())) == classes if classes else "value" in output):
        return False
    if features and not features.keys() & columns.keys():
        return False
    for name, column in columns.items():
        value = features.get(name)
        if (
            not column.nullable
            if value is None
            else isinstance(value, str) != (column.type in ("category", "timestamp"))
        ):
            return False
    return True


def table(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows with a column for each feature that is known, in place of one with what was sent.

    The log holds what was sent: features that are derived from it are derived again.
    """
    names = sent(schema)
    features = pd.DataFrame(list(rows["features"]), columns=names, index=rows.index)
    for name in names:
        features[name] = as_sent(features[name], schema.inputs[name])
    if derivable(schema) and len(features):
        features = features.join(derive(features, schema))
    features = features.reindex(columns=[*logged(schema), *slices(schema)])
    return rows.drop(columns="features").join(features.add_prefix(FEATURE))


def as_sent(values: pd.Series, column: Column) -> pd.Series:
    if column.type == "timestamp":
        return pd.to_datetime(values, format="ISO8601", utc=True).dt.tz_localize(None)
    return values.astype("str" if column.type == "category" else "float64")


FEATURE = "feature: "  # before the names of features, which may be anything


def sent(schema: Schema) -> list[str]:
    """Return the inputs that are in the log as they were sent: `pii` columns are not."""
    return [name for name, column in schema.inputs.items() if not column.pii]


def derivable(schema: Schema) -> bool:
    """Return whether the log holds all that features are derived from."""
    return len(sent(schema)) == len(schema.inputs)


def logged(schema: Schema) -> list[str]:
    """Return the features that the log tells: those that are in it, and those derived from what is."""
    known = {*sent(schema), *(schema.derived if derivable(schema) else ())}
    return [name for name in schema.features if name in known]


def slices(schema: Schema) -> list[str]:
    """Return the columns beside the features that the log tells and by which a model is judged."""
    known = {*sent(schema), *(schema.derived if derivable(schema) else ())}
    return [name for name in schema.slices if name in known and name not in schema.features]


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the features of a window's rows, by their own names."""
    found = rows[[name for name in rows if name.startswith(FEATURE)]]
    return found.rename(columns=lambda name: name.removeprefix(FEATURE))


def name_of(start: datetime, end: datetime) -> str:
    """Return a window's name: its first day and the one after its last, or the times if it is of one day."""
    both = (start, end) if end - start >= timedelta(days=1) else None
    return "--".join(
        f"{time:%Y-%m-%d}" if both else f"{time:%Y-%m-%dT%H%M%S}" for time in (start, end)
    )
