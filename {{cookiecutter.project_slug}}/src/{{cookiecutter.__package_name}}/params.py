"""Params: the experiment's parameters in params.yaml, checked; one class for each stage."""

from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, Field

from .files import PARAMS, read_yaml


class Section(BaseModel, extra="forbid"):
    """Part of params.yaml: every key is needed, no other is allowed."""


class Ingest(Section):
    source: str
    start: date
    end: date


class Split(Section):
    train_end: date
    validation_end: date


class Train(Section):
    model: Literal["gradient_boosting", "logistic_regression"]
    seed: int
    gradient_boosting: dict[str, Any]
    logistic_regression: dict[str, Any]


class Evaluate(Section):
    baseline_by: str
    calibration_bins: int = Field(ge=2)
    min_slice_rows: int = Field(ge=1)


class Export(Section):
    reference_rows: int = Field(ge=500)
    parity: float = Field(gt=0)


class Promote(Section):
    min_gain: float = Field(ge=0)


class Monitor(Section):
    days: int = Field(ge=1, le=3650)
    min_rows: int = Field(ge=500)
    drift_share: float = Field(gt=0, le=1)


class Params(Section):
    ingest: Ingest
    split: Split
    train: Train
    evaluate: Evaluate
    export: Export
    promote: Promote
    monitor: Monitor


def load_params() -> Params:
    return read_yaml(PARAMS, Params)
