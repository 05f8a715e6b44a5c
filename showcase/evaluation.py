"""The worth of the loop: champion and frozen model on the same rows of the prediction log.

The intervals resample whole days, because flights of one day share its weather and its congestion.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score

from showcase.backfill import OUTCOMES, PREDICTIONS
from showcase.documents import Bundle
from showcase.processes import Failure
from showcase.story import Comparison

RESAMPLES = 100
METRICS = {
    "binary-classification": "roc_auc",
    "multiclass-classification": "log_loss",
    "regression": "mae",
}


@dataclass(frozen=True)
class Evaluation:
    """How a task's predictions are measured.

    Scores have a column for each class; those of a regression are value, low and high end.
    """

    bundle: Bundle
    bins: int  # of the calibration
    coverage: float  # share of the truths that a regression's intervals shall hold

    @property
    def metric(self) -> str:
        """The name of the metric that the gates look at first."""
        return METRICS[self.bundle.task]

    @property
    def sign(self) -> int:
        return 1 if self.metric == "roc_auc" else -1

    @property
    def classes(self) -> list[str]:
        return self.bundle.classes or []

    @property
    def positive(self) -> int:
        return self.classes.index(str(self.bundle.positive))

    def truth(self, values: pd.Series) -> np.ndarray:
        """Return the number of each row's class, or its value."""
        if self.classes:
            return np.array([self.classes.index(str(value)) for value in values])
        return np.asarray(values, dtype=float)

    def scores(self, outputs: pd.Series) -> np.ndarray:
        """Return logged outputs as an array."""
        if self.classes:
            rows = [[output["probabilities"][name] for name in self.classes] for output in outputs]
        else:
            rows = [[output["value"], *output["interval"]] for output in outputs]
        return np.array(rows, dtype=float)

    def measure(
        self, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """Return the metric, under weights of the rows."""
        if self.metric == "mae":
            return float(mean_absolute_error(truth, scores[:, 0], sample_weight=weights))
        if self.metric == "log_loss":
            labels = range(len(self.classes))
            return float(log_loss(truth, scores, labels=labels, sample_weight=weights))
        late = truth == self.positive
        return float(roc_auc_score(late, scores[:, self.positive], sample_weight=weights))

    def calibration_error(self, truth: np.ndarray, scores: np.ndarray) -> float:
        """Return how far probabilities, or the intervals' coverage, are from what came true."""
        if not self.classes:
            held = (scores[:, 1] <= truth) & (truth <= scores[:, 2])
            return float(abs(held.mean() - self.coverage))
        places = [self.positive] if self.metric == "roc_auc" else range(len(self.classes))
        return float(np.mean([self.class_error(truth == n, scores[:, n]) for n in places]))

    def class_error(self, truth: np.ndarray, probabilities: np.ndarray) -> float:
        bins = {"n_bins": self.bins, "strategy": "quantile"}
        observed, predicted = calibration_curve(truth, probabilities, **bins)
        return float(np.abs(observed - predicted).mean())


def read_pairs(log: sa.Engine, start: datetime, end: datetime) -> pd.DataFrame:
    """Return the rows of a time that both models have scored: time, champion, frozen, value."""
    shadow = PREDICTIONS.alias()
    answered = PREDICTIONS.c
    query = (
        sa.select(
            answered.time,
            answered.output.label("champion"),
            shadow.c.output.label("frozen"),
            OUTCOMES.c.value,
        )
        .join_from(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == answered.id)
        .outerjoin(shadow, (shadow.c.paired_with == answered.id) & (shadow.c.time == answered.time))
        .where(answered.variant == "champion", answered.time >= start, answered.time < end)
        .order_by(answered.id)
    )
    with log.connect() as connection:
        rows = connection.execute(query).all()
    found = pd.DataFrame(rows, columns=["time", "champion", "frozen", "value"])
    if found.empty or found["frozen"].isna().any():
        raise Failure(f"the shadow has not scored all rows of {start:%Y-%m}")
    return found


def compare(log: sa.Engine, evaluation: Evaluation, start: datetime, end: datetime) -> Comparison:
    """Compare champion and frozen model from `start` to `end`; all outcomes must be known."""
    rows = read_pairs(log, start, end)
    truth = evaluation.truth(rows["value"])
    champion = evaluation.scores(rows["champion"])
    frozen = evaluation.scores(rows["frozen"])

    def gain(weights: np.ndarray | None) -> float:
        new = evaluation.measure(truth, champion, weights)
        old = evaluation.measure(truth, frozen, weights)
        return evaluation.sign * (new - old)

    days, names = pd.factorize(pd.to_datetime(rows["time"]).dt.floor("D"))
    draws = np.random.default_rng(0)
    # Poisson weights stand for how often a day was drawn.
    resampled = [gain(draws.poisson(1.0, len(names))[days]) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Comparison(
        champion=evaluation.measure(truth, champion),
        frozen=evaluation.measure(truth, frozen),
        gain=gain(None),
        low=float(low),
        high=float(high),
        champion_error=evaluation.calibration_error(truth, champion),
        frozen_error=evaluation.calibration_error(truth, frozen),
    )
