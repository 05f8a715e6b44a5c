"""Evaluate a window: drift, data quality and performance, and the alarms that follow."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from mlops_loop.base.files import REPORTS
from mlops_loop.metrics import tasks
from mlops_loop.monitoring import data_quality, drift, performance
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.labelled_rows import logged_scores
from mlops_loop.monitoring.monitoring_window import logged_features, window_name
from mlops_loop.prediction_log.window_summary import (
    VERDICTS,
    DataQuality,
    Drift,
    Interval,
    WindowSummary,
)

FOLDER = REPORTS / "monitor"


def evaluate(found: Evaluation, model: str) -> WindowSummary:
    """Return what the window shows of the champion's traffic; `model` is its registered name."""
    window = found.window
    refused = data_quality.check_rejected(found)
    volume = data_quality.check_volume(found)
    sampled = len(window.answered.facts)
    if others := window.others:
        of = f"{others:,} of {others + sampled:,}"
        found.not_judged["other_contract"] = f"{of} are to the question of another contract"
    quality, drifted, estimate = check_inputs(found)
    measured = performance.check(found)
    fired = {alarm.verdict for alarm in found.alarms}
    name = window_name(window.start, window.end)
    return WindowSummary(
        window=name,
        start=window.start,
        end=window.end,
        made=datetime.now(UTC),
        model=model,
        model_version=found.bundle.version,
        rows=window.rows,
        sampled=sampled,
        requests=window.requests,
        versions=window.versions,
        verdicts=[verdict for verdict in VERDICTS if verdict in fired],
        alarms=found.alarms,
        not_judged=found.not_judged,
        quality=quality.model_copy(update={"refused": refused, "volume": volume}),
        drift=drifted,
        performance=measured,
        estimate=estimate,
        report=(FOLDER / name / "index.html").as_posix(),
    )


def check_inputs(
    found: Evaluation,
) -> tuple[DataQuality, Drift | None, dict[str, Interval] | None]:
    """Check features and predictions: drift, missing values, unknown categories."""
    sampled = len(found.window.answered.facts)
    least = found.params.monitor.min_rows
    if sampled < least:
        few = f"{sampled:,} predictions are too few: monitor.min_rows asks for {least}"
        found.not_judged |= dict.fromkeys(("drift", "quality.nulls", "quality.unseen"), few)
        return DataQuality(), None, None
    limits = calibrated_limits(found)
    columns = drift.check(found, *compared_tables(found), limits[drift.DISTANCE].to_dict())
    quality = data_quality.check_columns(found, limits[drift.NULLS])
    logged = logged_features(found.schema)
    if hidden := [name for name in found.schema.features if name not in logged]:
        why = f"the log holds no pii columns, so these are not compared: {', '.join(hidden)}"
        found.not_judged["pii"] = why
    share = sum(column.drifted for column in columns.values()) / len(columns)
    return quality, Drift(share=share, columns=columns), performance.estimate(found)


def calibrated_limits(found: Evaluation) -> pd.Series:
    """Return how far each column may be, and by how much more of it may be missing."""
    schema = found.schema
    params = found.params.monitor
    numeric = drift.numeric_columns(schema)
    # Of predictions on the test window: on rows that it learned from, a model is surer of itself.
    predicted = found.held_out.assign(**{schema.prediction: predictions(found)})
    quiet = [
        drift.null_distribution(
            {name: drift.encode(table[name], numeric[name]) for name in names},
            table[schema.timestamp] if schema.timestamp else None,
            len(found.window.answered.facts),
            (found.window.end - found.window.start) / timedelta(days=1),
            params.resamples,
        )
        for table, names in (
            (found.reference, logged_features(schema)),
            (predicted, [schema.prediction]),
        )
    ]
    distances = pd.concat(quiet, axis="columns")
    least = pd.Series(params.min_distance, index=distances.columns)
    least[drift.NULLS] = params.quality.max_nulls
    return drift.thresholds(distances, least, params.false_alarms)


def predictions(found: Evaluation) -> pd.Series:
    """Return the champion's predictions on the test window."""
    _, scores = found.tested
    return pd.Series(tasks.of(found.schema).predictions(scores, found.schema))


def compared_tables(found: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the window's features and the reference's, each with predictions."""
    schema = found.schema
    answered = found.window.answered
    scores = logged_scores(answered.facts["output"], schema)
    predicted = tasks.of(schema).predictions(scores, schema)
    sampled = np.random.default_rng(0).choice(predictions(found), len(found.reference))
    return (
        answered.features.assign(**{schema.prediction: predicted}),
        found.reference.assign(**{schema.prediction: sampled}),
    )
