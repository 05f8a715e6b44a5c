"""`gates` in params.yaml: the limits of each gate."""

from pydantic import Field

from mlops_loop.base.params.section import Section


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
