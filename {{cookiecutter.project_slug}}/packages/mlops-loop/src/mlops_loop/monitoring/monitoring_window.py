"""Monitoring window: what the prediction log holds of a span of time.

All of it is counted, in one pass over its ids; a sample of the rows is read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd
import sqlalchemy as sa

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row
from mlops_loop.data.derived import derive
from mlops_loop.metrics.values import LoggedAnswer
from mlops_loop.monitoring.window_store import in_log
from mlops_loop.prediction_log.rejected_requests import count_rejected
from mlops_loop.prediction_log.tables import IDS_PER_STATEMENT, OUTCOMES, PREDICTIONS

EARLIER_WINDOWS = 4  # before this one, that say how many rows are usual
FIRST = "0000"  # the end of the id of a request's first row
PART = 100_000  # rows of which the ids are in memory at a time
COLUMNS = PREDICTIONS.c
WITH_OUTCOMES = sa.outerjoin(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == COLUMNS.id)


@dataclass(frozen=True)
class MonitoringWindow:
    """Counts of all rows, and samples of them."""

    start: datetime  # UTC
    end: datetime  # UTC, exclusive
    traffic: int  # rows, also those of another contract
    rows: int  # of the versions that answer this contract, as are the next and `known`
    requests: int
    versions: dict[str, int]  # rows by model version, whatever its contract
    earlier: list[int]  # traffic of the windows before this one, the newest first
    rejected: dict[tuple[str, str], int]  # requests by kind of error, and the column where
    known: int  # rows whose ground truth is known
    # Samples: answered (an id), time, output, model_version; value and recorded if known.
    answered: pd.DataFrame
    labelled: pd.DataFrame  # of one version, with ground truth
    features: pd.DataFrame  # of both, under the same index
    others: int  # sampled rows of another contract: not in `answered`


@in_log()
def read_window(
    engine: sa.Engine, start: datetime, end: datetime, version: str, schema: Schema, max_rows: int
) -> MonitoringWindow:
    """Return the window, without shadows; at most `max_rows` are read, always the same."""
    length = end - start
    before = [between(start - n * length, end - n * length) for n in range(1, EARLIER_WINDOWS + 1)]
    with engine.connect() as connection:
        counts, some, some_labelled = scan(connection, between(start, end), version, max_rows)
        rows = read_rows(connection, sorted({*some, *some_labelled}))  # day by day
        earlier = [connection.scalar(sa.select(sa.func.count()).where(one)) or 0 for one in before]
    fits = contract_check(schema)
    pairs = zip(rows["features"], rows["output"], strict=True)
    fitting = rows.loc[[fits(sent, answer) for sent, answer in pairs]]
    answered = fitting[fitting["answered"].isin(some)]
    # A version answers one contract, so a sample tells which.
    ours = counts[counts.index.isin([version, *answered["model_version"]])].sum()
    return MonitoringWindow(
        start=start,
        end=end,
        traffic=int(counts["rows"].sum()),
        rows=int(ours["rows"]),
        requests=int(ours["requests"]),
        versions={name: int(rows) for name, rows in counts["rows"].items()},
        earlier=earlier,
        rejected=count_rejected(engine, start, end),
        known=int(ours["known"]),
        answered=answered,
        labelled=fitting[fitting["answered"].isin(some_labelled)],
        features=features_of(fitting["features"], schema),
        others=len(some) - len(answered),
    )


def between(start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    return (COLUMNS.time >= start) & (COLUMNS.time < end) & (COLUMNS.variant != "shadow")


def scan(
    connection: sa.Connection, inside: sa.ColumnElement[bool], version: str, max_rows: int
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the number of rows, requests and rows with ground truth of each model version.

    Also the ids of a sample, and of one of this version's labelled rows: those with the lowest
    hashes of their ids: always the same ones of a log.
    """
    if connection.dialect.name == "postgresql":
        return scan_in_database(connection, inside, version, max_rows)
    known = OUTCOMES.c.prediction_id.is_not(None).label("known")
    query = sa.select(COLUMNS.id, COLUMNS.model_version, known)
    query = query.select_from(WITH_OUTCOMES).where(inside)
    counts = []
    answered: list[pd.DataFrame] = []
    labelled: list[pd.DataFrame] = []
    for part in pd.read_sql(query, connection, chunksize=PART):
        part = part.astype({"known": bool})
        part["first"] = part["id"].str.endswith(FIRST).astype(bool)
        part["hash"] = pd.util.hash_array(part["id"].to_numpy(object), categorize=False)
        versions = part.groupby("model_version")
        counts.append(
            versions.agg(rows=("id", "size"), requests=("first", "sum"), known=("known", "sum"))
        )
        answered = [pd.concat([*answered, part]).nsmallest(max_rows, "hash")]
        mine = part[part["known"] & (part["model_version"] == version)]
        labelled = [pd.concat([*labelled, mine]).nsmallest(max_rows, "hash")]
    total = pd.concat(counts).groupby(level=0).sum()
    return total, answered[0]["id"].tolist(), labelled[0]["id"].tolist()


def scan_in_database(
    connection: sa.Connection, inside: sa.ColumnElement[bool], version: str, max_rows: int
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Do the same in PostgreSQL: it counts millions of rows in the time that sending some takes.

    Its own hash takes a fifth of the time of MD5, which other databases have as well.
    """
    known = OUTCOMES.c.prediction_id
    count = sa.func.count()
    counts = sa.select(
        COLUMNS.model_version,
        count.label("rows"),
        count.filter(COLUMNS.id.like(f"%{FIRST}")).label("requests"),
        sa.func.count(known).label("known"),
    )
    counts = counts.select_from(WITH_OUTCOMES).where(inside).group_by(COLUMNS.model_version)
    total = pd.read_sql(counts, connection, index_col="model_version")

    def lowest(query: sa.Select[str], rows: int) -> list[str]:
        """Return the ids with the lowest hashes; of most rows, others need not be sorted."""
        order = sa.func.hashtextextended(COLUMNS.id, 0)
        share = min(1, (max_rows + 6 * math.sqrt(max_rows)) / max(rows, 1))
        query = query.where(order <= int(share * (2**64 - 1)) - 2**63)
        return [*connection.scalars(query.order_by(order).limit(max_rows))]

    some = sa.select(COLUMNS.id).where(inside)
    labelled = some.select_from(WITH_OUTCOMES).where(known.is_not(None))
    labelled = labelled.where(COLUMNS.model_version == version)
    labels = int(total["known"].get(version, 0))
    return total, lowest(some, int(total["rows"].sum())), lowest(labelled, labels)


def read_rows(connection: sa.Connection, ids: list[str]) -> pd.DataFrame:
    """Return the rows with these ids, with their ground truth, in order of time."""
    truth = (OUTCOMES.c.value, OUTCOMES.c.time.label("recorded"))
    logged = (COLUMNS.time, COLUMNS.features, COLUMNS.output, COLUMNS.model_version)
    query = sa.select(COLUMNS.id.label("answered"), *logged, *truth).select_from(WITH_OUTCOMES)
    rows: list[object] = []
    for first in range(0, len(ids), IDS_PER_STATEMENT):
        some = COLUMNS.id.in_(ids[first : first + IDS_PER_STATEMENT])
        rows += connection.execute(query.where(some)).all()
    names = [column.name for column in query.selected_columns]
    table = pd.DataFrame(rows, columns=names, dtype=object)  # a missing value makes no 1 a 1.0
    return table.sort_values(["time", "answered"], ignore_index=True)


def contract_check(schema: Schema) -> Callable[[Row, LoggedAnswer], bool]:
    """Return whether features and answer are of the contract, which may have got a nullable one."""
    classes = set(schema.classes)
    columns = {
        name: (column.nullable, column.type in ("category", "timestamp"))
        for name, column in sent_inputs(schema).items()
    }

    def fits(features: Row, output: LoggedAnswer) -> bool:
        answers = set(output.get("probabilities", ())) == classes if classes else "value" in output
        if not answers or (features and not features.keys() & columns.keys()):
            return False
        return all(
            nullable if (value := features.get(name)) is None else isinstance(value, str) == is_text
            for name, (nullable, is_text) in columns.items()
        )

    return fits


def features_of(sent: pd.Series, schema: Schema) -> pd.DataFrame:
    """Return the inputs that the log tells; and what is derived from them, if it tells all."""
    columns = sent_inputs(schema)
    features = pd.DataFrame(list(sent), columns=list(columns), index=sent.index)
    for name, column in columns.items():
        if column.type == "timestamp":
            times = pd.to_datetime(features[name], format="ISO8601", utc=True)
            features[name] = times.dt.tz_localize(None)
        else:
            features[name] = features[name].astype("str" if column.type == "category" else float)
    if len(columns) == len(schema.inputs) and len(features):
        features = features.join(derive(features, schema))
    return features


def sent_inputs(schema: Schema) -> dict[str, Column]:
    """Return the inputs that are in the log as they were sent: `pii` columns are not."""
    return {name: column for name, column in schema.inputs.items() if not column.pii}


def logged_features(schema: Schema) -> list[str]:
    """Return the features that the log tells; derived ones if all inputs are in it."""
    sent = sent_inputs(schema)
    whole = len(sent) == len(schema.inputs)
    return [name for name in schema.features if name in (schema.columns if whole else sent)]


def window_name(start: datetime, end: datetime) -> str:
    """Return the first day and the one after the last, or the times if the window is of one day."""
    form = "%Y-%m-%d" if end - start >= timedelta(days=1) else "%Y-%m-%dT%H%M%S"
    return f"{start:{form}}--{end:{form}}"
