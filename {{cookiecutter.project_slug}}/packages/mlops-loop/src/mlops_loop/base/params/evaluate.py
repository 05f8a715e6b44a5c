"""`evaluate` in params.yaml: the naive baseline, slices and intervals."""

from pydantic import Field

from mlops_loop.base.params.section import Section


class EvaluateParams(Section):
    baseline_by: str | None = None
    calibration_bins: int = Field(default=10, ge=2)
    min_slice_rows: int = Field(default=200, ge=1)
    coverage: float = Field(default=0.9, gt=0, lt=1)
