"""Replay: send rows of the past to the real server as traffic, then let its log have the rows' own times.

A year passes in minutes, so what the log says of when it was has to be put right: by this module alone, in
the log of a demonstration.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd
import requests
import sqlalchemy as sa
from mlops_loop.base.errors import Failure
from mlops_loop.prediction_log.tables import IDS_PER_STATEMENT, OUTCOMES, PREDICTIONS, REFUSALS
from mlops_loop.serving.ground_truth import MAX_OUTCOMES

BATCH = 500  # rows in a request
SECONDS = 60  # that an answer may take
PATIENCE = 60  # seconds until shadows and refusals must be in the log
COLUMNS = PREDICTIONS.c


class Sent(NamedTuple):
    ids: list[str | None]  # of the predictions; None for a row that was refused
    refused: int  # requests


def post(client: requests.Session, address: str, body: Any) -> requests.Response:
    """Return the answer; raise requests.HTTPError for one that is no refusal of what was sent."""
    answer = client.post(address, json=body, timeout=SECONDS)
    if answer.status_code != 422:
        answer.raise_for_status()
    return answer


def send(
    address: str, client: requests.Session, rows: Sequence[dict[str, Any]], batch: int = BATCH
) -> Sent:
    """Ask for predictions; the rows of a refused request are sent again one by one."""
    ids, refused = list[str | None](), 0
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        answer = post(client, f"{address}/v1/predict", {"rows": part})
        if answer.ok:
            ids += [prediction["id"] for prediction in answer.json()["predictions"]]
            continue
        again = Sent([None], 0) if len(part) == 1 else send(address, client, part, 1)
        ids, refused = ids + again.ids, refused + again.refused + 1
    return Sent(ids, refused)


def wait_for(found: Callable[[], bool], what: str) -> None:
    """Return when it is found; raise a Failure if that takes too long."""
    end = time.monotonic() + PATIENCE
    while not found():
        if time.monotonic() > end:
            raise Failure(f"after {PATIENCE} seconds there still is no sign of {what}")
        time.sleep(0.1)


def redate(
    engine: sa.Engine, since: datetime, sent: Sent, times: pd.Series, shadowed: bool
) -> None:
    """Give what is in the log since then the times of the rows: answers, their shadows, and refusals."""
    pairs = [(name, at.to_pydatetime()) for name, at in zip(sent.ids, times, strict=True) if name]
    mine = (COLUMNS.variant == "shadow") & (COLUMNS.time >= since)
    refused = REFUSALS.c.time >= since

    def count(query: sa.Select[Any]) -> int:
        with engine.connect() as connection:
            return connection.scalar(query) or 0

    if shadowed:
        shadows = sa.select(sa.func.count()).where(mine)
        wait_for(lambda: count(shadows) >= len(pairs), "the shadow's predictions in the log")
    if sent.refused:
        requests = sa.select(sa.func.sum(REFUSALS.c.requests)).where(refused)
        wait_for(lambda: count(requests) >= sent.refused, "the refused requests in the log")
    change = (
        sa.update(PREDICTIONS)
        .where(COLUMNS.id == sa.bindparam("key"))
        .values(time=sa.bindparam("at"))
    )
    answered = PREDICTIONS.alias()
    at_once = (
        sa.select(answered.c.time).where(answered.c.id == COLUMNS.paired_with).scalar_subquery()
    )
    with engine.begin() as connection:
        for first in range(0, len(pairs), IDS_PER_STATEMENT):
            part = pairs[first : first + IDS_PER_STATEMENT]
            connection.execute(change, [{"key": name, "at": at} for name, at in part])
        connection.execute(sa.update(PREDICTIONS).where(mine).values(time=at_once))
        connection.execute(
            sa.update(REFUSALS).where(refused).values(time=times.min().to_pydatetime())
        )


def deliver(
    address: str, client: requests.Session, engine: sa.Engine, outcomes: pd.DataFrame
) -> dict[str, int]:
    """Tell the API what came true: columns prediction_id, value, recorded (its time). Return its counts."""
    counts: dict[str, int] = {}
    for first in range(0, len(outcomes), MAX_OUTCOMES):
        part = outcomes.iloc[first : first + MAX_OUTCOMES]
        lines = part[["prediction_id", "value"]].to_dict(orient="records")
        answer = post(client, f"{address}/v1/outcomes", {"outcomes": lines})
        answer.raise_for_status()
        for key, number in answer.json().items():
            counts[key] = counts.get(key, 0) + (number if isinstance(number, int) else len(number))
    change = sa.update(OUTCOMES).where(OUTCOMES.c.prediction_id == sa.bindparam("key"))
    change = change.values(time=sa.bindparam("at"))
    at = zip(outcomes["prediction_id"], outcomes["recorded"], strict=True)
    with engine.begin() as connection:
        connection.execute(change, [{"key": name, "at": time.to_pydatetime()} for name, time in at])
    return counts
