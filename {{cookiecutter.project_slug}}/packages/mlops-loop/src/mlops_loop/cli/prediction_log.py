"""The verbs of `prediction_log`."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import LOG


@LOG.command("prune", epilog="{example} log prune --older-than 90")
def log_prune(
    older_than: Annotated[int, typer.Option(min=0, max=36500, metavar="DAYS", help="Age in days.")],
) -> None:
    """Delete old predictions and their outcomes; the audit log stays."""
    from datetime import UTC, datetime, timedelta

    from sqlalchemy.exc import SQLAlchemyError

    from mlops_loop.base.settings import load_settings
    from mlops_loop.prediction_log.connection import open_log, unusable
    from mlops_loop.prediction_log.retention import prune

    engine = open_log(load_settings().prediction_log_url)
    try:
        pruned = prune(engine, datetime.now(UTC) - timedelta(days=older_than))
    except SQLAlchemyError as error:
        raise unusable(error) from None
    print(f"{pruned:,} predictions deleted that were older than {older_than} days")
