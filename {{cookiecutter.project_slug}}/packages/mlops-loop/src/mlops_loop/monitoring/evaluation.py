"""Evaluation: a window, the champion that it is about, and the alarms that the checks raise."""

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.metrics.values import Scored
from mlops_loop.monitoring.monitoring_window import MonitoringWindow
from mlops_loop.prediction_log.window_summary import Alarm, Number
from mlops_loop.scoring.bundle import HELD_OUT, REFERENCE, Bundle

SUBJECTS = {  # of a rule, for people; of the others it is the last part of their ids
    "drift": "{column}",
    "quality.nulls": "nulls in {column}",
    "quality.unseen": "unseen in {column}",
    "quality.refused": "refused requests",
}


@dataclass
class Evaluation:
    """`not_judged` says why a rule, or a family of them, was not checked."""

    window: MonitoringWindow
    bundle: Bundle  # the champion's
    params: Params
    alarms: list[Alarm] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)
    limits: pd.Series | None = None  # of the columns, from the reference; None: too few rows

    @property
    def sampled(self) -> int:
        return len(self.window.answered)

    @cached_property
    def features(self) -> pd.DataFrame:
        """Features of the sampled rows, those that the log tells."""
        return self.window.features.loc[self.window.answered.index]

    def alarm(self, rule: str, value: Number, limit: Number, text: str, column: str = "") -> None:
        """Add an alarm; `rule` is its id, the verdict and what is checked: drift, decay.roc_auc."""
        verdict, _, check = rule.partition(".")
        name = f"{verdict}: {SUBJECTS.get(rule, check).format(column=column)}"
        facts = {"id": rule, "verdict": verdict, "column": column or None, "text": text}
        alarm = {**facts, "rule": name, "value": value, "limit": limit}
        self.alarms.append(Alarm.model_validate(alarm))

    @property
    def schema(self) -> Schema:
        return self.bundle.schema

    @cached_property
    def reference(self) -> pd.DataFrame:
        """A sample of the rows that the champion learned from."""
        return tables.read_table(self.bundle.folder / REFERENCE)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """A sample of the test window, with the champion's scores."""
        return tables.read_table(self.bundle.folder / HELD_OUT)

    @cached_property
    def tested(self) -> Scored:
        """Truth and scores on the test window."""
        truth, scores = held_out_scores(self.held_out, self.schema)
        point = self.bundle.operating_point
        return Scored(truth, scores, point, self.schema, self.params.evaluate)
