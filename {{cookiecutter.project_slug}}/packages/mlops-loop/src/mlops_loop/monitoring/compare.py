"""Compare: from ground truth, whether a canary or a shadow is better than the champion.

A shadow scores the rows that the champion answers, so the two are compared on the same rows. A
canary answers rows of its own: it is compared with what the champion answered from the canary's
first row to its last.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import sqlalchemy as sa
from pydantic import BaseModel
from rich.table import Table

from mlops_loop.base.params import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored
from mlops_loop.monitoring.labelled_rows import LabelledRows, Measured, measure, resampling_groups
from mlops_loop.monitoring.window_store import in_log
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.prediction_log.window_summary import Interval, Time
from mlops_loop.scoring.bundle import OperatingPoint, open_bundle

MIN_LABELS = 100  # of each side; with fewer nothing is concluded
RESAMPLES = 500
COLUMNS = PREDICTIONS.c
# The ground truth is that of the row that was answered, which a shadow is paired with.
ANSWERED_ID = sa.func.coalesce(COLUMNS.paired_with, COLUMNS.id)
VERDICT_TEXTS = {
    "better": "is better",
    "worse": "is worse",
    "open": "cannot be told from the champion yet",
}
Verdict = Literal["better", "worse", "open"]


class Sides(BaseModel, frozen=True):
    """A metric of both; `difference` is challenger less champion."""

    champion: Interval
    challenger: Interval
    difference: Interval


class LabelCounts(BaseModel, frozen=True):
    champion: int
    challenger: int


class Challenger(BaseModel, frozen=True):
    variant: str
    version: str
    predictions: int
    outcomes: LabelCounts
    verdict: Verdict
    reason: str
    metrics: dict[str, Sides]


class Comparison(BaseModel, frozen=True):
    """What `compare --json` prints."""

    champion: str
    start: Time
    end: Time
    challengers: list[Challenger]


@in_log()
def compare(days: int | None = None) -> Comparison:
    """Compare the champion with every other version of the last `days` (default: monitor.days).

    Whoever looks every day and stops at the first verdict is wrong more often than 5 % of the time:
    choose the day before.
    """
    settings = load_settings()
    bundle = open_bundle(Path(settings.bundle))
    schema = bundle.schema
    end = datetime.now(UTC)
    start = end - timedelta(days=days or load_params().monitor.days)
    found = []
    with open_log(settings.prediction_log_url).connect() as connection:
        champion = labelled_rows(connection, start, "champion", bundle.version, schema)
        for variant, version, predictions in count_predictions(connection, start):
            rows = labelled_rows(connection, start, variant, version, schema)
            outcomes, metrics = compare_rows(variant, champion, rows, schema)
            verdict, reason = conclude(outcomes, metrics, schema)
            found.append(
                Challenger(
                    variant=variant,
                    version=version,
                    predictions=predictions,
                    outcomes=outcomes,
                    verdict=verdict,
                    reason=reason,
                    metrics=metrics,
                )
            )
    return Comparison(champion=bundle.version, start=start, end=end, challengers=found)


def count_predictions(connection: sa.Connection, since: datetime) -> list[tuple[str, str, int]]:
    """Return variant, model version and number of predictions of all that is not champion."""
    sides = (COLUMNS.variant, COLUMNS.model_version)
    query = sa.select(*sides, sa.func.count()).group_by(*sides).order_by(*sides)
    query = query.where(COLUMNS.time >= since, COLUMNS.variant != "champion")
    return [(variant, version, rows) for variant, version, rows in connection.execute(query)]


def labelled_rows(
    connection: sa.Connection, since: datetime, variant: str, version: str, schema: Schema
) -> pd.DataFrame:
    """Return the predictions whose ground truth is known: answered (an id), time, output, value."""
    columns = (ANSWERED_ID.label("answered"), COLUMNS.time, COLUMNS.output, OUTCOMES.c.value)
    joined = sa.join(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == ANSWERED_ID)
    query = sa.select(*columns).select_from(joined)
    query = query.where(
        COLUMNS.time >= since, COLUMNS.variant == variant, COLUMNS.model_version == version
    )
    return LabelledRows.of(pd.read_sql(query, connection), schema).rows


def logged_operating_point(outputs: pd.Series, schema: Schema) -> OperatingPoint:
    """Return the operating point that logged answers show: half of a regression's interval."""
    if schema.classes:
        return OperatingPoint()
    ends = np.array([output["interval"] for output in outputs], dtype=float)
    return OperatingPoint(half_width=float(np.median(ends[:, 1] - ends[:, 0]) / 2))


def compare_rows(
    variant: str, champion: pd.DataFrame, challenger: pd.DataFrame, schema: Schema
) -> tuple[LabelCounts, dict[str, Sides]]:
    """Return the outcomes, and each metric of both and its difference with 95 % intervals."""
    if variant == "shadow":  # the rows of both that are of the same answers, in the same order
        both = champion[["answered"]].merge(challenger[["answered"]])
        champion = both.merge(champion)
        challenger = both.merge(challenger)
    else:  # the champion's rows from the challenger's first one to its last
        times = pd.to_datetime(challenger["time"])
        champion = champion[champion["time"].between(times.min(), times.max())]
    outcomes = LabelCounts(champion=len(champion), challenger=len(challenger))
    if min(len(champion), len(challenger)) < MIN_LABELS:
        return outcomes, {}
    groups = resampling_groups(pd.concat([champion, challenger], ignore_index=True))
    sides = []
    for rows in (champion, challenger):
        labelled = LabelledRows.of(rows, schema)
        point = logged_operating_point(labelled.rows["output"], schema)
        sides.append(Scored(labelled.truth, labelled.scores, point, schema))
    first, second = measure(sides, np.split(groups, [len(champion)]), RESAMPLES, schema)
    difference = Measured(
        {name: second.values[name] - value for name, value in first.values.items()},
        second.resampled - first.resampled,
    )
    return outcomes, {
        name: Sides(
            champion=first.interval(name),
            challenger=second.interval(name),
            difference=difference.interval(name),
        )
        for name in first.values
    }


def conclude(
    outcomes: LabelCounts, metrics: dict[str, Sides], schema: Schema
) -> tuple[Verdict, str]:
    """Return whether the challenger is better or worse, or that it is open, and why."""
    fewest = min(outcomes.champion, outcomes.challenger)
    if fewest < MIN_LABELS:
        return "open", f"too few outcomes: {fewest}, {MIN_LABELS} are needed"
    name, more_is_better = tasks.deciding_metric(schema)
    difference = metrics[name].difference
    if difference.low is None or difference.high is None:
        return "open", f"{name} needs outcomes of several classes on both sides"
    if difference.low <= 0 <= difference.high:
        return "open", f"inconclusive: the 95 % CI of the {name} difference includes 0"
    verdict: Verdict = "better" if (difference.low > 0) == more_is_better else "worse"
    return verdict, f"by {name}, with 95 % confidence"


def print_comparison(found: Comparison) -> None:
    """Print the comparisons as tables, each with its verdict."""
    console = open_console()
    if not found.challengers:
        since = found.start.isoformat(timespec="seconds")
        console.print(f"nothing to compare: no canary or shadow has predicted since {since}")
    for one in found.challengers:
        title = f"champion {found.champion} and {one.variant} {one.version}"
        table = Table("", "champion", one.variant, "difference", title=title, title_justify="left")
        table.add_row("outcomes", f"{one.outcomes.champion:,}", f"{one.outcomes.challenger:,}")
        for name, sides in one.metrics.items():
            intervals = (sides.champion, sides.challenger, sides.difference)
            table.add_row(name, *map(format_interval, intervals))
        console.print(table)
        verdict = VERDICT_TEXTS[one.verdict]
        console.print(f"{one.variant} {one.version} {verdict}: {one.reason}\n")


def format_interval(interval: Interval) -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "-"
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"
