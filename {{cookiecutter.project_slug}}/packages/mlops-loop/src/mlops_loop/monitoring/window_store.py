"""Window store: the summaries of all windows, in the prediction log's database."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.connection import unusable
from mlops_loop.prediction_log.tables import WINDOWS, lock_database
from mlops_loop.prediction_log.window_summary import WindowSummary, read_summary


def store(engine: sa.Engine, summary: WindowSummary) -> None:
    """Keep a summary in the log's database, in place of an earlier one of the same window."""
    row = {
        "model": summary.model,
        "name": summary.window,
        "start": summary.start,
        "end": summary.end,
        "made": summary.made,
        "summary": summary.model_dump(mode="json"),
    }
    same = (WINDOWS.c.model == summary.model) & (WINDOWS.c.name == summary.window)
    try:
        with engine.begin() as connection:
            lock_database(connection)
            connection.execute(sa.delete(WINDOWS).where(same))
            connection.execute(sa.insert(WINDOWS), row)
    except SQLAlchemyError as error:
        raise unusable(error) from None


def stored_summaries(
    engine: sa.Engine, settings: Settings, until: datetime | None = None
) -> list[WindowSummary]:
    """Return the summaries of the windows that had ended by `until`, UTC, in order of time."""
    query = sa.select(WINDOWS.c.summary).where(WINDOWS.c.model == settings.mlflow_experiment_name)
    if until:
        query = query.where(WINDOWS.c.end <= until)
    try:
        with engine.connect() as connection:
            documents = connection.scalars(query.order_by(WINDOWS.c.end, WINDOWS.c.start)).all()
    except SQLAlchemyError as error:
        raise unusable(error) from None
    return [summary for summary in map(read_summary, documents) if summary]
