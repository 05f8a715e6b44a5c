"""`retrain` in params.yaml: the windows of a new training, and when there is one."""

from pydantic import Field

from mlops_loop.base.params.section import Section


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
