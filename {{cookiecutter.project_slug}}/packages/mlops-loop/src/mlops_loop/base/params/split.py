"""`split` in params.yaml: how rows are divided into training, validation and test."""

from typing import Self

from pydantic import Field, NaiveDatetime, model_validator

from mlops_loop.base.params.section import Section


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
