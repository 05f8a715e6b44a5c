"""Monitoring window: what the prediction log holds of a span of time.

All of it is counted; a sample of the rows is read.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row
from mlops_loop.data.derived import derive
from mlops_loop.metrics.values import LoggedAnswer
from mlops_loop.monitoring.labelled_rows import REQUEST_DIGITS
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS

EARLIER_WINDOWS = 4  # before this one, that say how many rows are usual
FEATURE = "feature: "  # before the names of features, which may be anything
COLUMNS = PREDICTIONS.c
JOINED = sa.join(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == COLUMNS.id)


@dataclass(frozen=True)
class MonitoringWindow:
    """Counts of all rows, and samples: `answered` has time, features and output of each row.

    `labelled` has, of one version's rows whose ground truth is known, also value, recorded (its
    time) and answered (the prediction's id).
    """

    start: datetime  # UTC
    end: datetime  # UTC, exclusive
    rows: int
    requests: int
    versions: dict[str, int]  # rows by model version
    earlier: list[int]  # rows of the windows before this one, the newest first
    rejected: dict[tuple[str, str], int]  # requests by kind of error, and the column where
    answered: pd.DataFrame
    others: int  # sampled rows of another contract: not in `answered`
    known: int  # rows whose ground truth is known
    labelled: pd.DataFrame


def read_window(
    engine: sa.Engine, start: datetime, end: datetime, version: str, schema: Schema, max_rows: int
) -> MonitoringWindow:
    """Return the window, without shadows; at most `max_rows` leave the database, always the same.

    Raises Failure if the log cannot be read.
    """
    inside = between(start, end)
    columns = (COLUMNS.time, COLUMNS.features, COLUMNS.output)
    truth = (COLUMNS.id.label("answered"), OUTCOMES.c.value, OUTCOMES.c.time.label("recorded"))
    of_version = inside & (COLUMNS.model_version == version)
    try:
        with engine.connect() as connection:
            add_md5(connection)
            versions, requests = count(connection, inside)
            known = connection.scalar(sa.select(sa.func.count()).select_from(JOINED).where(inside))
            answered = sample(connection, inside, columns, max_rows)
            labelled = sample(connection, of_version, (*columns, *truth), max_rows, labelled=True)
            earlier = count_earlier(connection, start, end)
        rejected = count_rejected(engine, start, end)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    fitting = rows_of_contract(answered, schema)
    return MonitoringWindow(
        start=start,
        end=end,
        rows=sum(versions.values()),
        requests=requests,
        versions=versions,
        earlier=earlier,
        rejected=rejected,
        answered=spread_features(fitting, schema),
        others=len(answered) - len(fitting),
        known=known or 0,
        labelled=spread_features(rows_of_contract(labelled, schema), schema),
    )


def between(start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    return (COLUMNS.time >= start) & (COLUMNS.time < end) & (COLUMNS.variant != "shadow")


def add_md5(connection: sa.Connection) -> None:
    """Give SQLite the function that PostgreSQL has: rows in the order of their hash are random."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.create_function("md5", 1, md5, deterministic=True)


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def count(connection: sa.Connection, inside: sa.ColumnElement[bool]) -> tuple[dict[str, int], int]:
    """Return the number of rows by model version, and that of the requests."""
    requests = sa.func.count(sa.distinct(sa.func.substr(COLUMNS.id, 1, REQUEST_DIGITS)))
    query = sa.select(COLUMNS.model_version, sa.func.count(), requests).where(inside)
    found = connection.execute(query.group_by(COLUMNS.model_version)).all()
    return {version: rows for version, rows, _ in found}, sum(each for *_, each in found)


def count_earlier(connection: sa.Connection, start: datetime, end: datetime) -> list[int]:
    """Return the rows of the windows of this length before this one, the newest first."""
    rows = []
    for number in range(1, EARLIER_WINDOWS + 1):
        back = number * (end - start)
        query = sa.select(sa.func.count()).where(between(start - back, end - back))
        rows.append(connection.scalar(query) or 0)
    return rows


def sample(
    connection: sa.Connection,
    wanted: sa.ColumnElement[bool],
    columns: Sequence[sa.ColumnElement[object]],
    max_rows: int,
    *,
    labelled: bool = False,
) -> pd.DataFrame:
    """Return columns of at most `max_rows` rows, in order of time."""
    source = JOINED if labelled else PREDICTIONS
    chosen = sa.select(COLUMNS.id).select_from(source).where(wanted)
    chosen = chosen.order_by(sa.func.md5(COLUMNS.id)).limit(max_rows)
    query = sa.select(*columns).select_from(source).where(COLUMNS.id.in_(chosen))
    rows = list(connection.execute(query.order_by(COLUMNS.time, COLUMNS.id)))
    return pd.DataFrame(rows, columns=[column.name for column in columns])


def rows_of_contract(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows that were asked and answered as this contract says, and not as another."""
    pairs = zip(rows["features"], rows["output"], strict=True)
    return rows.loc[[fits(features, output, schema) for features, output in pairs]]


def fits(features: Row, output: LoggedAnswer, schema: Schema) -> bool:
    """Return whether features and answer are of the contract, which may have got a nullable one."""
    if schema.classes:
        if set(output.get("probabilities", ())) != set(schema.classes):
            return False
    elif "value" not in output:
        return False
    columns = {name: schema.inputs[name] for name in sent_inputs(schema)}
    if features and not features.keys() & columns.keys():
        return False
    for name, column in columns.items():
        value = features.get(name)
        is_text = column.type in ("category", "timestamp")
        if not (column.nullable if value is None else isinstance(value, str) == is_text):
            return False
    return True


def spread_features(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows with a column for each known feature, in place of one with what was sent.

    The log holds what was sent: features that are derived from it are derived again.
    """
    names = sent_inputs(schema)
    features = pd.DataFrame(list(rows["features"]), columns=names, index=rows.index)
    for name in names:
        features[name] = as_sent(features[name], schema.inputs[name])
    if is_derivable(schema) and len(features):
        features = features.join(derive(features, schema))
    features = features.reindex(columns=[*logged_features(schema), *other_slices(schema)])
    return rows.drop(columns="features").join(features.add_prefix(FEATURE))


def as_sent(values: pd.Series, column: Column) -> pd.Series:
    if column.type == "timestamp":
        return pd.to_datetime(values, format="ISO8601", utc=True).dt.tz_localize(None)
    return values.astype("str" if column.type == "category" else "float64")


def sent_inputs(schema: Schema) -> list[str]:
    """Return the inputs that are in the log as they were sent: `pii` columns are not."""
    return [name for name, column in schema.inputs.items() if not column.pii]


def is_derivable(schema: Schema) -> bool:
    """Return whether the log holds all that features are derived from."""
    return len(sent_inputs(schema)) == len(schema.inputs)


def known_columns(schema: Schema) -> set[str]:
    """Return the columns that the log holds, and those derived from them."""
    return {*sent_inputs(schema), *(schema.derived if is_derivable(schema) else ())}


def logged_features(schema: Schema) -> list[str]:
    """Return the features that the log tells, derived ones too."""
    known = known_columns(schema)
    return [name for name in schema.features if name in known]


def other_slices(schema: Schema) -> list[str]:
    """Return the slice columns, beside the features, that the log tells."""
    known = known_columns(schema)
    return [name for name in schema.slices if name in known and name not in schema.features]


def features_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the features of a window's rows, by their own names."""
    features = rows[[name for name in rows if name.startswith(FEATURE)]]
    return features.rename(columns=lambda name: name.removeprefix(FEATURE))


def window_name(start: datetime, end: datetime) -> str:
    """Return the first day and the one after the last, or the times if the window is of one day."""
    form = "%Y-%m-%d" if end - start >= timedelta(days=1) else "%Y-%m-%dT%H%M%S"
    return f"{start:{form}}--{end:{form}}"
