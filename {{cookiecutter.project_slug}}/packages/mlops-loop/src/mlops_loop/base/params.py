"""Params: the experiment's parameters in params.yaml, checked; one class for each stage."""

from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    Field,
    NaiveDatetime,
    field_serializer,
    field_validator,
    model_validator,
)

from mlops_loop.base.config import read_yaml
from mlops_loop.base.files import PARAMS


class Section(BaseModel, extra="forbid"):
    """Part of params.yaml: every key is needed, no other is allowed."""


class Sql(Section):
    sql: str = Field(min_length=1)
    url_env: str = Field(min_length=1)  # the environment variable that holds the database's URL


def format_source(source: str | Sql) -> str:
    """Return a source as it may be printed: a URL's password and signature are left out."""
    if isinstance(source, Sql):
        return f"the query on {source.url_env}"
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class IngestParams(Section):
    source: str | Sql
    start: NaiveDatetime | None
    end: NaiveDatetime | None

    @field_serializer("source")
    def without_secrets(self, source: str | Sql) -> str | dict[str, str]:
        """Dump the source as it may be seen: cards, manifests and runs are read by many."""
        return source.model_dump() if isinstance(source, Sql) else format_source(source)


class SplitParams(Section):
    train_end: NaiveDatetime | None
    validation_end: NaiveDatetime | None
    train_share: float = Field(gt=0, lt=1)
    validation_share: float = Field(gt=0, lt=1)
    seed: int

    @model_validator(mode="after")
    def consistent(self) -> Self:
        if (self.train_end is None) != (self.validation_end is None):
            raise ValueError("give both train_end and validation_end, or neither")
        if self.train_end and self.validation_end and self.train_end >= self.validation_end:
            raise ValueError("train_end must be before validation_end")
        if self.train_share + self.validation_share >= 1:
            raise ValueError("train_share and validation_share leave nothing to test on")
        return self


class TrainParams(BaseModel, extra="allow"):
    """How the model is trained. Each further key is a section: the arguments of an estimator."""

    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)
    model: str  # a name that the project's model.py knows
    seed: int = Field(ge=0)
    max_rows: int = Field(ge=1)

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The arguments of each estimator that params.yaml names."""
        return self.__pydantic_extra__

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the estimator that is trained."""
        return self.sections.get(self.model, {})

    def with_settings(self, settings: dict[str, Any]) -> Self:
        """Return the parameters with other arguments of the estimator that is trained."""
        return self.model_validate(self.model_dump() | {self.model: settings})


class EvaluateParams(Section):
    baseline_by: str | None
    calibration_bins: int = Field(ge=2)
    min_slice_rows: int = Field(ge=1)
    coverage: float = Field(gt=0, lt=1)


class ExportParams(Section):
    format: Literal["onnx", "skops"]
    reference_rows: int = Field(ge=500)


class BaselineGate(Section):
    min_gain: float = Field(ge=0)


class ChampionGate(Section):
    min_gain: float = Field(ge=0)
    confidence: float = Field(ge=0.5, lt=1)
    resamples: int = Field(ge=100, le=100_000)


class SlicesGate(Section):
    floor: float
    max_gap: float = Field(ge=0)


class CalibrationGate(Section):
    max_error: float = Field(gt=0)


class FairnessGate(Section):
    max_selection_difference: float = Field(ge=0)
    max_error_difference: float = Field(ge=0)


class LeakageGate(Section):
    max_overlap: float = Field(ge=0, le=1)


class BehaviourGate(Section):
    rows: int = Field(ge=1)


class LabelsGate(Section):
    min_skill: float = Field(gt=0, lt=1)


class ParityGate(Section):
    max_difference: float = Field(gt=0)


class SizeGate(Section):
    max_megabytes: float = Field(gt=0)


class ServerGate(Section):
    requests: int = Field(ge=1)
    fuzz: int = Field(ge=0)
    timeout: float = Field(gt=0)  # seconds until it must be ready


class LatencyGate(Section):
    p95_milliseconds: float = Field(gt=0)


class Gates(Section):
    """What `promote` asks of a candidate; None is a gate that is off."""

    max_rows: int = Field(ge=1)
    baseline: BaselineGate | None
    champion: ChampionGate | None
    slices: SlicesGate | None
    calibration: CalibrationGate | None
    fairness: FairnessGate | None
    leakage: LeakageGate | None
    labels: LabelsGate | None
    behaviour: BehaviourGate | None
    parity: ParityGate | None
    size: SizeGate | None
    server: ServerGate | None
    latency: LatencyGate | None


class Quality(Section):
    max_refused: float = Field(ge=0, lt=1)
    max_nulls: float = Field(ge=0, lt=1)
    max_unseen: float = Field(ge=0, lt=1)
    volume: tuple[float, float]

    @field_validator("volume")
    @classmethod
    def in_order(cls, volume: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= volume[0] < 1 < volume[1]:
            raise ValueError("give two factors, of which 1 lies between")
        return volume


class Decay(Section):
    min_labels: int = Field(ge=100)
    confidence: float = Field(ge=0.5, lt=1)
    max_drop: float = Field(ge=0)
    max_calibration_error: float = Field(gt=0)


class Monitor(Section):
    days: int = Field(ge=1, le=3650)
    min_rows: int = Field(ge=500)
    max_rows: int = Field(ge=500)
    resamples: int = Field(ge=100, le=10_000)
    false_alarms: float = Field(gt=0, lt=0.5)
    min_distance: float = Field(ge=0)
    drift_columns: int = Field(ge=1)
    quality: Quality
    decay: Decay


class Budget(Section):
    runs: int = Field(ge=1)
    days: int = Field(ge=1)


class Retrain(Section):
    label_delay_days: int = Field(ge=0)
    validation_days: int = Field(ge=1)
    test_days: int = Field(ge=1)
    window_days: int | None = Field(ge=1)
    every_days: int = Field(ge=1)
    new_rows: int = Field(ge=1)
    cooldown_days: int = Field(ge=0)
    budget: Budget


class Params(Section):
    ingest: IngestParams
    split: SplitParams
    train: TrainParams
    evaluate: EvaluateParams
    export: ExportParams
    gates: Gates
    monitor: Monitor
    retrain: Retrain


def load_params() -> Params:
    return read_yaml(PARAMS, Params)
