"""The experiment's parameters in params.yaml, one class for each section.

Every key but `ingest.source` has a default, so that a file of an earlier version goes on working.
"""

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
    """Part of params.yaml; an unknown key is refused."""


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
    start: NaiveDatetime | None = None
    end: NaiveDatetime | None = None

    @field_serializer("source")
    def without_secrets(self, source: str | Sql) -> str | dict[str, str]:
        """Dump the source as it may be seen: cards, manifests and runs are read by many."""
        return source.model_dump() if isinstance(source, Sql) else format_source(source)


class SplitParams(Section):
    train_end: NaiveDatetime | None = None
    validation_end: NaiveDatetime | None = None
    train_share: float = Field(default=0.6, gt=0, lt=1)
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    seed: int = 0

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
    model: str = "gradient_boosting"  # a name that the project's model.py knows
    seed: int = Field(default=0, ge=0)
    max_rows: int = Field(default=1_000_000, ge=1)

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
    baseline_by: str | None = None
    calibration_bins: int = Field(default=10, ge=2)
    min_slice_rows: int = Field(default=200, ge=1)
    coverage: float = Field(default=0.9, gt=0, lt=1)


class ExportParams(Section):
    format: Literal["onnx", "skops"] = "onnx"
    reference_rows: int = Field(default=10_000, ge=500)


class BaselineGate(Section):
    min_gain: float = Field(default=0, ge=0)


class ChampionGate(Section):
    min_gain: float = Field(default=0, ge=0)
    confidence: float = Field(default=0.8, ge=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100, le=100_000)


class SlicesGate(Section):
    floor: float = 0.5
    max_gap: float = Field(default=0.1, ge=0)


class CalibrationGate(Section):
    max_error: float = Field(default=0.1, gt=0)


class FairnessGate(Section):
    max_selection_difference: float = Field(default=0.2, ge=0)
    max_error_difference: float = Field(default=0.2, ge=0)


class LeakageGate(Section):
    max_overlap: float = Field(default=0.001, ge=0, le=1)


class BehaviourGate(Section):
    rows: int = Field(default=1000, ge=1)


class LabelsGate(Section):
    min_skill: float = Field(default=0.2, gt=0, lt=1)


class ParityGate(Section):
    max_difference: float = Field(default=1e-5, gt=0)


class SizeGate(Section):
    max_megabytes: float = Field(default=50, gt=0)


class ServerGate(Section):
    requests: int = Field(default=100, ge=1)
    fuzz: int = Field(default=100, ge=0)
    timeout: float = Field(default=60, gt=0)  # seconds until it must be ready


class LatencyGate(Section):
    p95_milliseconds: float = Field(default=250, gt=0)


class Gates(Section):
    """What `promote` asks of a candidate; None is a gate that is off."""

    max_rows: int = Field(default=1_000_000, ge=1)
    baseline: BaselineGate | None = Field(default_factory=BaselineGate)
    champion: ChampionGate | None = Field(default_factory=ChampionGate)
    slices: SlicesGate | None = Field(default_factory=SlicesGate)
    calibration: CalibrationGate | None = Field(default_factory=CalibrationGate)
    fairness: FairnessGate | None = Field(default_factory=FairnessGate)
    leakage: LeakageGate | None = Field(default_factory=LeakageGate)
    labels: LabelsGate | None = Field(default_factory=LabelsGate)
    behaviour: BehaviourGate | None = Field(default_factory=BehaviourGate)
    parity: ParityGate | None = Field(default_factory=ParityGate)
    size: SizeGate | None = Field(default_factory=SizeGate)
    server: ServerGate | None = Field(default_factory=ServerGate)
    latency: LatencyGate | None = Field(default_factory=LatencyGate)


class Quality(Section):
    max_refused: float = Field(default=0.01, ge=0, lt=1)
    max_nulls: float = Field(default=0.02, ge=0, lt=1)
    max_unseen: float = Field(default=0.01, ge=0, lt=1)
    volume: tuple[float, float] = (0.5, 2.0)

    @field_validator("volume")
    @classmethod
    def in_order(cls, volume: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= volume[0] < 1 < volume[1]:
            raise ValueError("give two factors, of which 1 lies between")
        return volume


class Decay(Section):
    min_labels: int = Field(default=1000, ge=100)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    max_drop: float = Field(default=0.04, ge=0)
    max_calibration_error: float = Field(default=0.08, gt=0)


class Monitor(Section):
    days: int = Field(default=7, ge=1, le=3650)
    min_rows: int = Field(default=500, ge=500)
    max_rows: int = Field(default=10_000, ge=500)
    resamples: int = Field(default=2000, ge=100, le=10_000)
    false_alarms: float = Field(default=0.02, gt=0, lt=0.5)
    min_distance: float = Field(default=0.05, ge=0)
    drift_columns: int = Field(default=1, ge=1)
    quality: Quality = Field(default_factory=Quality)
    decay: Decay = Field(default_factory=Decay)


class Budget(Section):
    runs: int = Field(default=3, ge=1)
    days: int = Field(default=180, ge=1)


class Retrain(Section):
    label_delay_days: int = Field(default=0, ge=0)
    validation_days: int = Field(default=7, ge=1)
    test_days: int = Field(default=24, ge=1)
    window_days: int | None = Field(default=None, ge=1)
    every_days: int = Field(default=90, ge=1)
    new_rows: int = Field(default=50_000, ge=1)
    cooldown_days: int = Field(default=35, ge=0)
    budget: Budget = Field(default_factory=Budget)


class Params(Section):
    ingest: IngestParams
    split: SplitParams = Field(default_factory=SplitParams)
    train: TrainParams = Field(default_factory=TrainParams)
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    export: ExportParams = Field(default_factory=ExportParams)
    gates: Gates = Field(default_factory=Gates)
    monitor: Monitor = Field(default_factory=Monitor)
    retrain: Retrain = Field(default_factory=Retrain)


def load_params() -> Params:
    return read_yaml(PARAMS, Params)
