"""params.yaml, section by section.

Every key but `ingest.source` has a default, so that a file of an earlier version goes on working.
"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, JsonValue, NaiveDatetime, field_serializer, model_validator

from mlops_loop.base.config import Share, read_yaml
from mlops_loop.base.files import PARAMS

Arguments = dict[str, JsonValue]  # of an estimator
AUTO = "auto"  # the best of the project's candidates, by cross-validation
Part = Annotated[float, Field(ge=0, lt=1)]
TrueShare = Annotated[float, Field(gt=0, lt=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]
Count = Annotated[int, Field(ge=1)]
Limit = Annotated[float, Field(ge=0)]


class Section(BaseModel, extra="forbid"):
    """Part of params.yaml; an unknown key is refused."""


class Sql(Section):
    sql: str = Field(min_length=1)
    url_env: str = Field(min_length=1)  # the environment variable that holds the database's URL


class IngestParams(Section):
    """Where rows come from."""

    source: str | Sql
    start: NaiveDatetime | None = None
    end: NaiveDatetime | None = None

    @field_serializer("source")
    def without_secrets(self, source: str | Sql) -> str | dict[str, str]:
        """Dump the source as it may be seen: cards, manifests and runs are read by many."""
        return source.model_dump() if isinstance(source, Sql) else format_source(source)


class SplitParams(Section):
    """How rows are divided into training, validation and test."""

    train_end: NaiveDatetime | None = None
    validation_end: NaiveDatetime | None = None
    train_share: TrueShare = 0.6
    validation_share: TrueShare = 0.2
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

    __pydantic_extra__: dict[str, Arguments] = Field(init=False)
    model: str = "gradient_boosting"  # a name that the project's model.py knows, or AUTO
    seed: int = Field(0, ge=0)
    max_rows: Count = 1_000_000

    @property
    def sections(self) -> dict[str, Arguments]:
        """The arguments of each estimator that params.yaml names."""
        return self.__pydantic_extra__

    @property
    def settings(self) -> Arguments:
        """The arguments of the estimator that is trained."""
        return self.sections.get(self.model, {})

    def with_settings(self, settings: Arguments) -> Self:
        """Return the parameters with other arguments of the estimator that is trained."""
        return self.model_validate(self.model_dump() | {self.model: settings})


class SegmentParams(Section):
    """A model for each category of a column, and one for all others."""

    column: str
    min_rows: Count = 1000  # of the training window; with fewer a category has no model of its own


class EvaluateParams(Section):
    baseline_by: str | None = None
    calibration_bins: int = Field(10, ge=2)
    min_slice_rows: Count = 200
    coverage: TrueShare = 0.9


class ExportParams(Section):
    format: Literal["onnx", "skops"] = "onnx"
    reference_rows: int = Field(10_000, ge=500)


class BaselineGate(Section):
    min_gain: Limit = 0


class ChampionGate(Section):
    min_gain: Limit = 0
    confidence: Confidence = 0.8
    resamples: int = Field(1000, ge=100, le=100_000)


class SlicesGate(Section):
    floor: float = 0.5
    max_gap: Limit = 0.1


class CalibrationGate(Section):
    max_error: float = Field(0.1, gt=0)


class FairnessGate(Section):
    max_selection_difference: Limit = 0.2
    max_error_difference: Limit = 0.2


class LeakageGate(Section):
    max_overlap: Share = 0.001


class BehaviourGate(Section):
    rows: Count = 1000


class LabelsGate(Section):
    min_skill: TrueShare = 0.2


class ParityGate(Section):
    max_difference: float = Field(1e-5, gt=0)


class SizeGate(Section):
    max_megabytes: float = Field(50, gt=0)


class ServerGate(Section):
    requests: Count = 100
    fuzz: int = Field(100, ge=0)
    timeout: float = Field(60, gt=0)  # seconds until it must be ready


class LatencyGate(Section):
    p95_milliseconds: float = Field(250, gt=0)


class Gates(Section):
    """What `promote` asks of a candidate; None is a gate that is off."""

    max_rows: Count = 1_000_000
    baseline: BaselineGate | None = BaselineGate()
    champion: ChampionGate | None = ChampionGate()
    slices: SlicesGate | None = SlicesGate()
    calibration: CalibrationGate | None = CalibrationGate()
    fairness: FairnessGate | None = FairnessGate()
    leakage: LeakageGate | None = LeakageGate()
    labels: LabelsGate | None = LabelsGate()
    behaviour: BehaviourGate | None = BehaviourGate()
    parity: ParityGate | None = ParityGate()
    size: SizeGate | None = SizeGate()
    server: ServerGate | None = ServerGate()
    latency: LatencyGate | None = LatencyGate()


class Quality(Section):
    max_refused: Part = 0.01
    max_nulls: Part = 0.02
    max_unseen: Part = 0.01
    volume: tuple[Part, Annotated[float, Field(gt=1)]] = (0.5, 2.0)


class Decay(Section):
    min_labels: int = Field(1000, ge=100)
    confidence: Confidence = 0.95
    max_drop: Limit = 0.04
    max_calibration_error: float = Field(0.08, gt=0)


class Monitor(Section):
    days: int = Field(7, ge=1, le=3650)
    min_rows: int = Field(500, ge=500)
    max_rows: int = Field(10_000, ge=500)
    resamples: int = Field(2000, ge=100, le=10_000)
    false_alarms: float = Field(0.02, gt=0, lt=0.5)
    min_distance: Limit = 0.05
    drift_columns: Count = 1
    quality: Quality = Quality()
    decay: Decay = Decay()


class Budget(Section):
    runs: Count = 3
    days: Count = 180


class Retrain(Section):
    """The windows of a new training, and when there is one."""

    label_delay_days: int = Field(0, ge=0)
    validation_days: Count = 7
    test_days: Count = 24
    window_days: Count | None = None
    every_days: Count = 90
    new_rows: Count = 50_000
    cooldown_days: int = Field(35, ge=0)
    budget: Budget = Budget()


class Params(Section):
    ingest: IngestParams
    split: SplitParams = SplitParams()
    train: TrainParams = TrainParams()
    segments: SegmentParams | None = None
    evaluate: EvaluateParams = EvaluateParams()
    export: ExportParams = ExportParams()
    gates: Gates = Gates()
    monitor: Monitor = Monitor()
    retrain: Retrain = Retrain()
    kubeflow: JsonValue = None  # checked by mlops-loop-kubeflow


def dump(params: Params, sections: set[str]) -> dict[str, dict[str, JsonValue]]:
    """Return sections of params.yaml as JSON has them, without those that are off."""
    found: dict[str, dict[str, JsonValue] | None] = params.model_dump(mode="json", include=sections)
    return {name: section for name, section in found.items() if section is not None}


def load_params() -> Params:
    return read_yaml(PARAMS, Params)


def format_source(source: str | Sql) -> str:
    """Return a source as it may be printed: a URL's password and signature are left out."""
    if isinstance(source, Sql):
        return f"the query on {source.url_env}"
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
