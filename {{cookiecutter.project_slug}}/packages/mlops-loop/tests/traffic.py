"""Traffic: predictions and outcomes in the log, as if served at another time."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlops_loop.base.params import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored
from mlops_loop.monitoring.labelled_rows import logged_scores
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.ground_truth import Recorded, record_ground_truth
from mlops_loop.prediction_log.predictions import Entry, insert_predictions, to_lines
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.release.smoke_test.run import as_json
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

END = datetime(2024, 1, 29, tzinfo=UTC)  # of a window of seven days, which begins on a Monday
REQUEST = 50  # rows


def engine() -> sa.Engine:
    return open_log(load_settings().prediction_log_url)


def log_rows(
    table: pd.DataFrame, end: datetime = END, days: float = 7, version: str = ""
) -> pd.DataFrame:
    """Log the rows' predictions, evenly over the days before `end`; return ids and outputs."""
    bundle, found = open_bundle(Path(load_settings().bundle)), []
    outputs = open_scorer(bundle).score(columns(table, bundle.schema))
    rows = as_json(table, bundle.schema)
    with engine().begin() as connection:
        for first in range(0, len(rows), REQUEST):
            answered = outputs[first : first + REQUEST]
            prefix, at = uuid.uuid4().hex[:28], end - timedelta(days=days * (1 - first / len(rows)))
            facts = prefix, at, None, version or bundle.version, "champion", None, 1.0
            lines = to_lines(answered, rows[first : first + REQUEST])
            insert_predictions(connection, [Entry(*facts, lines)])
            found += [(f"{prefix}{place:04x}", output) for place, output in enumerate(answered)]
    return pd.DataFrame(found, columns=["id", "output"])


def promised(logged: pd.DataFrame) -> list:
    """Return outcomes as if the model's promises were right, sampled from its probabilities."""
    bundle, params = open_bundle(Path(load_settings().bundle)), load_params().evaluate
    schema, drawn = bundle.schema, np.random.default_rng(0)
    scored = logged_scores(logged["output"], schema)
    operating_point = bundle.operating_point
    truth = tasks.of(schema).sample_labels(
        drawn, Scored(np.zeros(len(scored)), scored, operating_point, schema, params)
    )
    if schema.task == "regression":
        held_out = tables.read_table(bundle.folder / "held_out.parquet")
        before = held_out["score 0"].to_numpy()
        errors = held_out[schema.target].to_numpy() - before
        return (scored[:, 0] + drawn.choice(errors, len(scored))).tolist()
    if schema.task == "binary-classification":
        (other,) = set(schema.classes) - {schema.positive}
        return np.where(truth, schema.positive, other).tolist()
    return np.asarray(schema.classes)[truth].tolist()


def wrong(logged: pd.DataFrame) -> list:
    """Return outcomes far from the predictions: the least probable class, or a far value."""
    schema = open_bundle(Path(load_settings().bundle)).schema
    scored = logged_scores(logged["output"], schema)
    if schema.task == "regression":
        return (scored[:, 0] + 100 * (1 + np.ptp(scored))).tolist()
    return np.asarray(schema.classes)[scored.argmin(axis=1)].tolist()


def come_true(logged: pd.DataFrame, values: list, days: float = 2) -> Recorded:
    """Record outcomes, as of so many days after the predictions."""
    done = record_ground_truth(engine(), list(zip(logged["id"], values, strict=True)))
    outcomes, predictions = OUTCOMES.c, PREDICTIONS.c
    made = sa.select(predictions.id, predictions.time).join(
        OUTCOMES, outcomes.prediction_id == predictions.id
    )
    change = sa.update(OUTCOMES).where(outcomes.prediction_id == sa.bindparam("key"))
    with engine().begin() as connection:
        rows = [
            {"key": key, "at": at + timedelta(days=days)} for key, at in connection.execute(made)
        ]
        connection.execute(change.values(time=sa.bindparam("at")), rows)
    return done
