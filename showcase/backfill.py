"""Send rows of the past to the real server as traffic, then give its log the rows' own times.

A year passes in minutes, so the times in the log have to be put right. That is done here alone, by
SQL on the documented tables of a log that is made for the showcase.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import pandas as pd
import sqlalchemy as sa

from showcase.server import wait_for

BATCH = 500  # rows in a request
MOST = 10_000  # outcomes in a request
Row = dict[str, object]

TIME = sa.DateTime(timezone=True)
PREDICTIONS = sa.table(
    "predictions",
    sa.column("id", sa.String),
    sa.column("time", TIME),
    sa.column("variant", sa.String),
    sa.column("paired_with", sa.String),  # of a shadow: the prediction that was answered
    sa.column("output", sa.JSON),
)
OUTCOMES = sa.table(
    "outcomes",
    sa.column("prediction_id", sa.String),
    sa.column("value", sa.JSON),
    sa.column("time", TIME),
)
REFUSALS = sa.table("refusals", sa.column("time", TIME), sa.column("requests", sa.Integer))
COLUMNS = PREDICTIONS.c


@dataclass(frozen=True)
class Sent:
    """What became of a table's rows: the predictions' ids, None where a row was refused."""

    since: datetime
    ids: list[str | None]
    refused: int  # requests


def open_log(url: str) -> sa.Engine:
    """Return an engine on a log that a server writes to at the same time."""
    return sa.create_engine(url, connect_args={"timeout": 60})


def columns_of_api(client: httpx.Client) -> list[str]:
    """Return the columns of a row as the running API documents them."""
    schemas = client.get("/openapi.json").raise_for_status().json()["components"]["schemas"]
    return list(schemas["Row"]["properties"])


def rows_of_api(table: pd.DataFrame, columns: list[str]) -> list[Row]:
    """Return a table's rows as the API takes them: times as ISO 8601, missing values as null."""
    chosen = table[columns]
    for name in chosen.select_dtypes("datetime"):
        chosen = chosen.assign(**{str(name): chosen[name].dt.strftime("%Y-%m-%dT%H:%M:%S")})
    return list(json.loads(chosen.to_json(orient="records", double_precision=15)))


def post(client: httpx.Client, path: str, body: dict[str, object]) -> httpx.Response:
    """Return the answer; raise HTTPStatusError for an error other than a refusal (422)."""
    answer = client.post(path, json=body)
    if answer.status_code != 422:
        answer.raise_for_status()
    return answer


def send(client: httpx.Client, rows: list[Row], batch: int = BATCH) -> Sent:
    """Ask for predictions; the rows of a refused request are sent again one by one."""
    since = datetime.now(UTC)
    ids: list[str | None] = []
    refused = 0
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        answer = post(client, "/v1/predict", {"rows": part})
        if answer.status_code == 200:
            ids += [prediction["id"] for prediction in answer.json()["predictions"]]
            continue
        refused += 1
        if len(part) == 1:
            ids.append(None)
            continue
        again = send(client, part, 1)
        ids += again.ids
        refused += again.refused
    return Sent(since, ids, refused)


def redate(log: sa.Engine, sent: Sent, times: pd.Series, shadowed: bool) -> None:
    """Give the rows' times to what the log holds of them: answers, their shadows, and refusals."""
    pairs = zip(sent.ids, times, strict=True)
    dates = [{"key": key, "at": at.to_pydatetime()} for key, at in pairs if key]
    shadows = (COLUMNS.variant == "shadow") & (COLUMNS.time >= sent.since)
    refusals = REFUSALS.c.time >= sent.since
    if shadowed:
        counted = sa.select(sa.func.count()).select_from(PREDICTIONS).where(shadows)
        wait_for(lambda: number(log, counted) >= len(dates), "the shadow's predictions in the log")
    if sent.refused:
        counted = sa.select(sa.func.sum(REFUSALS.c.requests)).where(refusals)
        wait_for(lambda: number(log, counted) >= sent.refused, "the refused requests in the log")
    by_id = sa.update(PREDICTIONS).where(COLUMNS.id == sa.bindparam("key"))
    answered = PREDICTIONS.alias()
    of_answered = sa.select(answered.c.time).where(answered.c.id == COLUMNS.paired_with)
    with log.begin() as connection:
        connection.execute(by_id.values(time=sa.bindparam("at")), dates)
        shadow_times = sa.update(PREDICTIONS).where(shadows)
        connection.execute(shadow_times.values(time=of_answered.scalar_subquery()))
        earliest = times.min().to_pydatetime()
        connection.execute(sa.update(REFUSALS).where(refusals).values(time=earliest))


def number(log: sa.Engine, query: sa.Select[int]) -> int:
    with log.connect() as connection:
        return connection.scalar(query) or 0


def deliver(client: httpx.Client, log: sa.Engine, outcomes: pd.DataFrame) -> None:
    """Post outcomes: columns prediction_id, value, and recorded, the time for the log."""
    for first in range(0, len(outcomes), MOST):
        part = outcomes.iloc[first : first + MOST][["prediction_id", "value"]]
        post(client, "/v1/outcomes", {"outcomes": part.to_dict("records")}).raise_for_status()
    by_id = sa.update(OUTCOMES).where(OUTCOMES.c.prediction_id == sa.bindparam("key"))
    pairs = zip(outcomes["prediction_id"], outcomes["recorded"], strict=True)
    dates = [{"key": key, "at": at.to_pydatetime()} for key, at in pairs]
    if dates:
        with log.begin() as connection:
            connection.execute(by_id.values(time=sa.bindparam("at")), dates)
