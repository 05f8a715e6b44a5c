"""Compare: from outcomes, whether a canary or a shadow is better than the champion, and how sure that is.

A shadow scores the rows that the champion answers, so the two are compared on the same rows. A canary answers
rows of its own: it is compared with what the champion answered from the canary's first row to its last.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.params import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import FEWEST_DAYS, resample
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.operating_point import OperatingPoint

FEWEST = 100  # outcomes of each side; fewer are too few to tell anything
RESAMPLES = 500
REQUEST = 28  # digits of a prediction's id that name its request
COLUMNS = PREDICTIONS.c
ANSWERED = sa.func.coalesce(
    COLUMNS.paired_with, COLUMNS.id
)  # the outcome is that of the answered row


def count(connection: sa.Connection, since: datetime) -> dict[tuple[str, str], int]:
    """Return the number of predictions by variant and model version."""
    sides = COLUMNS.variant, COLUMNS.model_version
    query = sa.select(*sides, sa.func.count()).where(COLUMNS.time >= since).group_by(*sides)
    return {(variant, version): rows for variant, version, rows in connection.execute(query)}


def known(connection: sa.Connection, since: datetime, variant: str, version: str) -> pd.DataFrame:
    """Return the predictions whose outcome is known: answered (an id), time, output and value."""
    columns = ANSWERED.label("answered"), COLUMNS.time, COLUMNS.output, OUTCOMES.c.value
    query = sa.select(*columns).join_from(
        PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == ANSWERED
    )
    query = query.where(
        COLUMNS.time >= since, COLUMNS.variant == variant, COLUMNS.model_version == version
    )
    rows = connection.execution_options(stream_results=True).execute(query)
    return pd.DataFrame(list(rows), columns=[column.name for column in columns])


def usable(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the rows whose outcome can be a truth: one of the classes, or a number."""
    if schema.classes:
        rows = rows.assign(value=rows["value"].map(str))
        return rows[rows["value"].isin(schema.classes)]
    rows = rows.assign(value=pd.to_numeric(rows["value"], errors="coerce").astype(float))
    return rows[np.isfinite(rows["value"])]


def matched(
    champion: pd.DataFrame, challenger: pd.DataFrame, paired: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of both that may be compared: of the same answers, or else of the same time."""
    if paired:
        both = set(champion["answered"]) & set(challenger["answered"])
        found = [
            rows[rows["answered"].isin(both)].sort_values("answered")
            for rows in (champion, challenger)
        ]
        return found[0], found[1]
    if challenger.empty:
        return champion.head(0), challenger
    return champion[
        champion["time"].between(challenger["time"].min(), challenger["time"].max())
    ], challenger


def groups(rows: pd.DataFrame) -> np.ndarray:
    """Return a code for the group that each row is resampled with: its day, or with few days its request."""
    codes, days = pd.factorize(pd.to_datetime(rows["time"]).dt.floor("D"))
    return np.asarray(
        codes if len(days) >= FEWEST_DAYS else pd.factorize(rows["answered"].str[:REQUEST])[0]
    )


def scores(outputs: pd.Series, schema: Schema) -> np.ndarray:
    """Return logged outputs as the model's scores, shape (rows, classes) or (rows, 1)."""
    if schema.classes:
        rows = [[output["probabilities"][name] for name in schema.classes] for output in outputs]
    else:
        rows = [[output["value"]] for output in outputs]
    return np.array(rows, dtype=float)


def operating_point(outputs: pd.Series, schema: Schema) -> OperatingPoint:
    """Return the operating point that logged answers show: half of a regression's interval."""
    if schema.classes:
        return OperatingPoint()
    ends = np.array([output["interval"] for output in outputs], dtype=float)
    return OperatingPoint(half_width=float(np.median(ends[:, 1] - ends[:, 0]) / 2))


def measure(champion: pd.DataFrame, challenger: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """Return each metric of both sides and its difference, challenger less champion, with 95 % intervals.

    Both are resampled at once: rows of the same day or request are drawn together, on either side.
    """
    task, sides = tasks.of(schema), {"champion": champion, "challenger": challenger}
    statistics = {
        side: task.weighted_metrics(
            task.truth(rows.rename(columns={"value": schema.target}), schema),
            scores(rows["output"], schema),
            operating_point(rows["output"], schema),
            schema,
        )
        for side, rows in sides.items()
    }

    def both(weights: np.ndarray) -> dict[str, float]:
        parts = np.split(weights, [len(champion)])
        first, second = (statistics[side](part) for side, part in zip(sides, parts, strict=True))
        found = {f"champion {name}": value for name, value in first.items()}
        found |= {f"challenger {name}": value for name, value in second.items()}
        return found | {f"difference {name}": second[name] - value for name, value in first.items()}

    together = pd.concat([champion, challenger], ignore_index=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = both(np.ones(len(together)))
    ends = resample(both, groups(together), RESAMPLES).quantile([0.025, 0.975])
    found: dict[str, Any] = {}
    for key, value in values.items():
        side, _, name = key.partition(" ")
        facts = zip(("value", "low", "high"), (value, *ends[key]), strict=True)
        numbers = {fact: float(number) if np.isfinite(number) else None for fact, number in facts}
        found.setdefault(name, {})[side] = numbers
    return found


def judge(metrics: dict[str, Any], schema: Schema) -> tuple[str, str]:
    """Return whether the challenger is "better", "worse" or that it is "open", and why in a few words."""
    name, more_is_better = next(iter(tasks.of(schema).GATE_METRICS.items()))
    low, high = metrics[name]["difference"]["low"], metrics[name]["difference"]["high"]
    if low is None or high is None:
        return "open", f"{name} needs outcomes of several classes on both sides"
    if low <= 0 <= high:
        return "open", f"the interval of the difference in {name} holds 0: more outcomes may tell"
    return (
        "better" if (low > 0) == more_is_better else "worse"
    ), f"by {name}, with 95 % confidence"


def compare(days: int | None = None) -> dict[str, Any]:
    """Compare the champion with every other version of the last `days` (by default monitor.days).

    Returns a document of plain values; a verdict is better, worse or open. Who looks every day and stops at
    the first verdict is wrong more often than 5 % of the time: choose the day before.
    """
    settings = load_settings()
    bundle, end = open_bundle(Path(settings.bundle)), datetime.now(UTC)
    schema, start = bundle.schema, end - timedelta(days=days or load_params().monitor.days)
    found: list[dict[str, Any]] = []
    try:
        with open_log(settings.prediction_log_url).connect() as connection:
            counts = count(connection, start)
            champion = usable(known(connection, start, "champion", bundle.version), schema)
            for variant, version in sorted(counts):
                if variant == "champion":
                    continue
                challenger = usable(known(connection, start, variant, version), schema)
                sides = matched(champion, challenger, paired=variant == "shadow")
                outcomes = {
                    side: len(rows)
                    for side, rows in zip(("champion", "challenger"), sides, strict=True)
                }
                metrics: dict[str, Any] = {}
                verdict, reason = (
                    "open",
                    f"too few outcomes: {min(outcomes.values())}, {FEWEST} are needed",
                )
                if min(outcomes.values()) >= FEWEST:
                    metrics = measure(*sides, schema)
                    verdict, reason = judge(metrics, schema)
                facts = {
                    "variant": variant,
                    "version": version,
                    "predictions": counts[variant, version],
                }
                found.append(
                    facts
                    | {
                        "outcomes": outcomes,
                        "verdict": verdict,
                        "reason": reason,
                        "metrics": metrics,
                    }
                )
    except SQLAlchemyError as error:
        reason = redacted(str(error).partition("\n")[0])
        raise Failure(
            f"the prediction log, see PREDICTION_LOG_URL, cannot be read: {reason}"
        ) from None
    window = {
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
    }
    return {"champion": bundle.version, **window, "challengers": found}


def show(found: dict[str, Any]) -> None:
    """Print the comparisons as tables, each with its verdict."""
    console = open_console()
    if not found["challengers"]:
        console.print(
            f"nothing to compare: no canary or shadow has predicted since {found['start']}"
        )
    words = {
        "better": "is better",
        "worse": "is worse",
        "open": "cannot be told from the champion yet",
    }
    for one in found["challengers"]:
        outcomes = one["outcomes"]
        title = f"champion {found['champion']} and {one['variant']} {one['version']}"
        table = Table(
            "", "champion", one["variant"], "difference", title=title, title_justify="left"
        )
        table.add_row("outcomes", f"{outcomes['champion']:,}", f"{outcomes['challenger']:,}")
        for name, sides in one["metrics"].items():
            table.add_row(
                name, *(shown(**sides[side]) for side in ("champion", "challenger", "difference"))
            )
        console.print(table)
        console.print(
            f"{one['variant']} {one['version']} {words[one['verdict']]}: {one['reason']}\n"
        )


def shown(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.4g} ({low:.4g} to {high:.4g})"
