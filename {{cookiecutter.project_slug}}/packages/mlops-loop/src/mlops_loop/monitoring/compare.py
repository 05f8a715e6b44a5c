"""Compare: from ground truth, whether a canary or a shadow is better than the champion.

A shadow scores the rows that the champion answers, so the two are compared on the same rows. A
canary answers rows of its own: it is compared with what the champion answered from the canary's
first row to its last.
"""

from dataclasses import replace
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
from mlops_loop.monitoring.labelled_rows import ENDS, labelled, measure, resampling_groups
from mlops_loop.monitoring.window_store import in_log
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.prediction_log.window_summary import Number
from mlops_loop.reporting.formats import cell
from mlops_loop.scoring.bundle import OperatingPoint, open_bundle

MIN_LABELS = 100  # of each side; with fewer nothing is concluded
RESAMPLES = 500
COLUMNS = PREDICTIONS.c
# The ground truth is that of the row that was answered, which a shadow is paired with.
ANSWERED_ID = sa.func.coalesce(COLUMNS.paired_with, COLUMNS.id)
Verdict = Literal["better", "worse", "open"]


class Row(BaseModel, frozen=True):
    """A metric of the champion and of a challenger; `difference` is challenger less champion."""

    variant: str
    version: str
    metric: str
    verdict: Verdict | None  # by the metric that decides; open: more outcomes are needed
    difference: Number = None
    low: Number = None  # 95 % interval of the difference
    high: Number = None
    challenger: Number = None
    champion: Number = None
    challenger_outcomes: int
    champion_outcomes: int


@in_log()
def compare(days: int | None = None) -> list[Row]:
    """Compare the champion with every other version of the last `days` (default: monitor.days).

    Whoever looks every day and stops at the first verdict is wrong more often than 5 % of the time:
    choose the day before.
    """
    settings = load_settings()
    bundle = open_bundle(Path(settings.bundle))
    since = datetime.now(UTC) - timedelta(days=days or load_params().monitor.days)
    versions = sa.select(COLUMNS.variant, COLUMNS.model_version).distinct()
    others = versions.where(COLUMNS.time >= since, COLUMNS.variant != "champion")
    rows = []
    with open_log(settings.prediction_log_url).connect() as connection:
        champion = read_labelled(connection, since, "champion", bundle.version)
        for variant, version in sorted(connection.execute(others).tuples()):
            challenger = read_labelled(connection, since, variant, version)
            rows += compare_rows(variant, version, champion, challenger, bundle.schema)
    return rows


def read_labelled(
    connection: sa.Connection, since: datetime, variant: str, version: str
) -> pd.DataFrame:
    """Return the predictions whose ground truth is known: answered (an id), time, output, value."""
    columns = (ANSWERED_ID.label("answered"), COLUMNS.time, COLUMNS.output, OUTCOMES.c.value)
    joined = sa.join(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == ANSWERED_ID)
    query = sa.select(*columns).select_from(joined)
    query = query.where(
        COLUMNS.time >= since, COLUMNS.variant == variant, COLUMNS.model_version == version
    )
    return pd.read_sql(query, connection)


def comparable(
    variant: str, champion: pd.DataFrame, challenger: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if variant == "shadow":  # the rows of both that are of the same answers, in the same order
        both = champion[["answered"]].merge(challenger[["answered"]])
        return both.merge(champion), both.merge(challenger)
    times = pd.to_datetime(challenger["time"])
    return champion[champion["time"].between(times.min(), times.max())], challenger


def compare_rows(
    variant: str, version: str, champion: pd.DataFrame, challenger: pd.DataFrame, schema: Schema
) -> list[Row]:
    """Return a row for each metric, the one that decides first; only that if labels are too few."""
    both = comparable(variant, champion, challenger)
    sides = [labelled(rows, schema, OperatingPoint()) for rows in both]
    known = [rows for rows, _ in sides]
    decisive, more_is_better = tasks.deciding_metric(schema)
    unknown = Row(
        variant=variant,
        version=version,
        metric=decisive,
        verdict="open",
        challenger_outcomes=len(known[1]),
        champion_outcomes=len(known[0]),
    )
    if min(map(len, known)) < MIN_LABELS:
        return [unknown]
    groups = resampling_groups(pd.concat(known, ignore_index=True))
    starts = (0, len(known[0]))
    first, second = (
        measure(replace(one, point=logged_point(rows["output"], schema)), groups, start, RESAMPLES)
        for (rows, one), start in zip(sides, starts, strict=True)
    )
    table = pd.DataFrame({"champion": first.values, "challenger": second.values})
    table["difference"] = table["challenger"] - table["champion"]
    table[["low", "high"]] = (second.resampled - first.resampled).quantile(ENDS).T
    low, high = table.loc[decisive, ["low", "high"]]
    verdict: Verdict = "better" if (low > 0) == more_is_better else "worse"
    verdicts = {decisive: verdict if low > 0 or high < 0 else "open"}
    return [
        Row.model_validate(
            {**dict(unknown), "metric": name, "verdict": verdicts.get(name), **table.loc[name]}
        )
        for name in sorted(table.index, key=lambda name: name != decisive)
    ]


def logged_point(outputs: pd.Series, schema: Schema) -> OperatingPoint:
    """Return the operating point that logged answers show: half of a regression's interval."""
    if schema.classes:
        return OperatingPoint()
    ends = np.array([output["interval"] for output in outputs], dtype=float)
    return OperatingPoint(half_width=float(np.median(ends[:, 1] - ends[:, 0]) / 2))


def print_comparison(rows: list[Row]) -> None:
    if not rows:
        print("nothing to compare: no canary or shadow has predicted")
        return
    table = Table(*(name.replace("_", " ") for name in Row.model_fields))
    for row in rows:
        table.add_row(*(str(cell(value)) for value in row.model_dump().values()))
    open_console().print(table)
