"""Monitoring window: what the prediction log holds of a span of time.

All of it is counted, in one pass over its ids; a sample of the rows is read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row
from mlops_loop.data.derived import derive
from mlops_loop.metrics.values import LoggedAnswer
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.tables import IDS_PER_STATEMENT, OUTCOMES, PREDICTIONS

EARLIER_WINDOWS = 4  # before this one, that say how many rows are usual
FEATURE = "feature: "  # before the names of features, which may be anything
FIRST = "0000"  # the end of the id of a request's first row
PART = 100_000  # rows of which the ids are in memory at a time
COLUMNS = PREDICTIONS.c


@dataclass(frozen=True)
class MonitoringWindow:
    """Counts of all rows, and samples: `answered` has time, features and output of each row.

    `labelled` has, of one version's rows whose ground truth is known, also value, recorded (its
    time) and answered (the prediction's id).
    """

    start: datetime  # UTC
    end: datetime  # UTC, exclusive
    traffic: int  # rows, also those of another contract
    rows: int  # of the versions that answer this contract, as are the next and `known`
    requests: int
    versions: dict[str, int]  # rows by model version, whatever its contract
    earlier: list[int]  # traffic of the windows before this one, the newest first
    rejected: dict[tuple[str, str], int]  # requests by kind of error, and the column where
    answered: pd.DataFrame
    others: int  # sampled rows of another contract: not in `answered`
    known: int  # rows whose ground truth is known
    labelled: pd.DataFrame


@dataclass
class Counts:
    """The number of rows, requests and rows with ground truth, by model version."""

    rows: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)


def read_window(
    engine: sa.Engine, start: datetime, end: datetime, version: str, schema: Schema, max_rows: int
) -> MonitoringWindow:
    """Return the window, without shadows; at most `max_rows` are read, always the same.

    Raises Failure if the log cannot be read.
    """
    inside = between(start, end)
    columns = (COLUMNS.time, COLUMNS.features, COLUMNS.output, COLUMNS.model_version)
    truth = (COLUMNS.id.label("answered"), OUTCOMES.c.value, OUTCOMES.c.time.label("recorded"))
    try:
        with engine.connect() as connection:
            counts, some, some_labelled = scan(connection, inside, version, max_rows)
            answered = read_rows(connection, columns, some)
            labelled = read_rows(connection, (*columns, *truth), some_labelled)
            earlier = count_earlier(connection, start, end)
        rejected = count_rejected(engine, start, end)
    except SQLAlchemyError as error:
        raise unusable(error) from None
    fitting = rows_of_contract(answered, schema)
    # A version answers one contract, so a sample tells which.
    same = {version, *fitting["model_version"]}
    return MonitoringWindow(
        start=start,
        end=end,
        traffic=counts.rows.total(),
        rows=sum(counts.rows[each] for each in same),
        requests=sum(counts.requests[each] for each in same),
        versions=dict(counts.rows),
        earlier=earlier,
        rejected=rejected,
        answered=spread_features(fitting, schema),
        others=len(answered) - len(fitting),
        known=sum(counts.known[each] for each in same),
        labelled=spread_features(rows_of_contract(labelled, schema), schema),
    )


def between(start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    return (COLUMNS.time >= start) & (COLUMNS.time < end) & (COLUMNS.variant != "shadow")


def scan(
    connection: sa.Connection, inside: sa.ColumnElement[bool], version: str, max_rows: int
) -> tuple[Counts, list[str], list[str]]:
    """Count the rows, and return the ids of a sample, and of one of this version's labelled rows.

    A sample has the rows with the lowest hashes of their ids: the same ones on any database.
    """
    counts = Counts()
    answered = labelled = (np.empty(0, object), np.empty(0, np.uint64))
    for ids, versions, known in id_parts(connection, inside):
        counts.rows.update(versions)
        counts.requests.update(versions[[each.endswith(FIRST) for each in ids]])
        counts.known.update(versions[known])
        hashes = pd.util.hash_array(ids, categorize=False)
        answered = lowest(answered, ids, hashes, max_rows)
        chosen = known & (versions == version)
        labelled = lowest(labelled, ids[chosen], hashes[chosen], max_rows)
    return counts, answered[0].tolist(), labelled[0].tolist()


Texts = NDArray[np.object_]
Hashes = NDArray[np.uint64]


def id_parts(
    connection: sa.Connection, inside: sa.ColumnElement[bool]
) -> Iterator[tuple[Texts, Texts, NDArray[np.bool_]]]:
    """Yield ids, model versions, and whether the ground truth is known, some rows at a time."""
    joined = sa.outerjoin(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == COLUMNS.id)
    known = OUTCOMES.c.prediction_id.is_not(None)
    query = sa.select(COLUMNS.id, COLUMNS.model_version, known).select_from(joined).where(inside)
    for part in connection.execution_options(yield_per=PART).execute(query).partitions():
        ids, versions, labelled = zip(*part, strict=True)
        yield np.array(ids, object), np.array(versions, object), np.array(labelled, bool)


def lowest(
    kept: tuple[Texts, Hashes], ids: Texts, hashes: Hashes, most: int
) -> tuple[Texts, Hashes]:
    """Return those of lowest hash of what is kept and what is new."""
    both = np.concatenate([kept[1], hashes])
    order = np.argsort(both, kind="stable")[:most]
    return np.concatenate([kept[0], ids])[order], both[order]


def read_rows(
    connection: sa.Connection, columns: Sequence[sa.ColumnElement[object]], ids: list[str]
) -> pd.DataFrame:
    """Return columns of the rows with these ids, in order of time."""
    source = sa.outerjoin(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == COLUMNS.id)
    query = sa.select(*columns, COLUMNS.id).select_from(source)
    rows: list[Sequence[object]] = []
    for first in range(0, len(ids), IDS_PER_STATEMENT):
        some = COLUMNS.id.in_(ids[first : first + IDS_PER_STATEMENT])
        rows += connection.execute(query.where(some)).all()
    names = [column.name for column in columns]
    table = pd.DataFrame(rows, columns=[*names, "id"])
    return table.sort_values(["time", "id"], ignore_index=True)[names]


def count_earlier(connection: sa.Connection, start: datetime, end: datetime) -> list[int]:
    """Return the rows of the windows of this length before this one, the newest first."""
    rows = []
    for number in range(1, EARLIER_WINDOWS + 1):
        back = number * (end - start)
        query = sa.select(sa.func.count()).where(between(start - back, end - back))
        rows.append(connection.scalar(query) or 0)
    return rows


def rows_of_contract(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows that were asked and answered as this contract says, and not as another."""
    fits = contract_check(schema)
    pairs = zip(rows["features"], rows["output"], strict=True)
    return rows.loc[[fits(features, output) for features, output in pairs]]


def contract_check(schema: Schema) -> Callable[[Row, LoggedAnswer], bool]:
    """Return whether features and answer are of the contract, which may have got a nullable one."""
    classes = set(schema.classes)
    inputs = schema.inputs
    columns = {
        name: (inputs[name].nullable, inputs[name].type in ("category", "timestamp"))
        for name in sent_inputs(schema)
    }

    def fits(features: Row, output: LoggedAnswer) -> bool:
        if classes and set(output.get("probabilities", ())) != classes:
            return False
        if not classes and "value" not in output:
            return False
        if features and not features.keys() & columns.keys():
            return False
        for name, (nullable, is_text) in columns.items():
            value = features.get(name)
            if not (nullable if value is None else isinstance(value, str) == is_text):
                return False
        return True

    return fits


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
