"""`monitor` in params.yaml: windows, drift, data quality and decay."""

from pydantic import Field, field_validator

from mlops_loop.base.params.section import Section


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
