"""Params: the experiment's parameters in params.yaml, checked; one class for each stage."""

from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, NaiveDatetime, field_serializer, model_validator

from .config import read_yaml
from .files import PARAMS


class Section(BaseModel, extra="forbid"):
    """Part of params.yaml: every key is needed, no other is allowed."""


class Sql(Section):
    sql: str = Field(min_length=1)
    url_env: str = Field(min_length=1)  # the environment variable that holds the database's URL


def shown(source: str | Sql) -> str:
    """Return a source as it may be printed: a URL's password and signature are left out."""
    if isinstance(source, Sql):
        return f"the query on {source.url_env}"
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Ingest(Section):
    source: str | Sql
    start: NaiveDatetime | None
    end: NaiveDatetime | None

    @field_serializer("source")
    def without_secrets(self, source: str | Sql) -> str | dict[str, str]:
        """Dump the source as it may be seen: cards, manifests and runs are read by many."""
        return source.model_dump() if isinstance(source, Sql) else shown(source)


class Split(Section):
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


class Train(Section):
    model: Literal["gradient_boosting", "logistic_regression", "ridge"]
    seed: int = Field(ge=0)
    max_rows: int = Field(ge=1)
    gradient_boosting: dict[str, Any]
    logistic_regression: dict[str, Any]
    ridge: dict[str, Any]


class Evaluate(Section):
    baseline_by: str | None
    calibration_bins: int = Field(ge=2)
    min_slice_rows: int = Field(ge=1)
    coverage: float = Field(gt=0, lt=1)


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
