"""Window store: the summaries of all windows, in the prediction log's database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.tables import WINDOWS, lock_database
from mlops_loop.prediction_log.window_summary import WindowSummary, read_summary


@contextmanager
def in_log() -> Iterator[None]:
    """Turn the database's errors into Failures; also for a whole function, as a decorator."""
    try:
        yield
    except SQLAlchemyError as error:
        raise unusable(error) from None


@in_log()
def store(engine: sa.Engine, summary: WindowSummary) -> None:
    """Keep a summary in the log's database, in place of an earlier one of the same window."""
    row = {name: getattr(summary, name) for name in ("model", "start", "end", "made")}
    row |= {"name": summary.window, "summary": summary.model_dump(mode="json")}
    same = (WINDOWS.c.model == summary.model) & (WINDOWS.c.name == summary.window)
    with engine.begin() as connection:
        lock_database(connection)
        connection.execute(sa.delete(WINDOWS).where(same))
        connection.execute(sa.insert(WINDOWS), row)


@in_log()
def stored_summaries(
    engine: sa.Engine, model: str, until: datetime | None = None
) -> list[WindowSummary]:
    """Return the summaries of the windows that had ended by `until`, UTC, in order of time."""
    query = sa.select(WINDOWS.c.summary).where(WINDOWS.c.model == model)
    if until:
        query = query.where(WINDOWS.c.end <= until)
    with engine.connect() as connection:
        documents = connection.scalars(query.order_by(WINDOWS.c.end, WINDOWS.c.start)).all()
    return [summary for summary in map(read_summary, documents) if summary]
