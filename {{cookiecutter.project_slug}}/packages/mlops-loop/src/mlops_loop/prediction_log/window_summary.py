"""What `monitor` found in a window: the document in the table `windows` and in summary.json.

Keys are only added while `schema_version` stays; of what an older version wrote, some may lack.
"""

import math
from datetime import UTC, datetime
from typing import Annotated

import sqlalchemy as sa
from pydantic import BaseModel, BeforeValidator, PlainSerializer, ValidationError, computed_field

from mlops_loop.prediction_log.tables import WINDOWS

VERDICTS = ("drift", "quality", "decay")
# The rules that look at a window's rows. Of refused requests there may be none to look at.
LOOKING = ("drift", "quality.nulls", "quality.unseen", "quality.volume", "decay")
NOT_JUDGED = "not judged"
EPOCH = datetime.fromtimestamp(0, UTC)
BOUNDS = ("value", "low", "high", "reference")  # of a metric


def finite(value: float | None) -> float | None:
    """JSON has no NaN: a number that is none is null."""
    return None if value is None or not math.isfinite(value) else float(value)


def in_seconds(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


Number = Annotated[float | None, BeforeValidator(finite)]
Time = Annotated[datetime, PlainSerializer(in_seconds, return_type=str)]


class Alarm(BaseModel, frozen=True):
    """A rule that fired. Programs go by `id` and `column`; people read `rule` and `text`."""

    rule: str  # "quality: nulls in temperature"
    id: str = ""  # "quality.nulls"; empty in a document of before it was there
    column: str | None = None
    verdict: str
    value: Number = None
    limit: Number = None
    text: str


class ColumnDrift(BaseModel, frozen=True):
    method: str = ""
    score: Number = None  # null if a side has no value to compare
    threshold: Number = None
    drifted: bool = False


class Drift(BaseModel, frozen=True):
    share: Number = None  # of the columns that drifted
    columns: dict[str, ColumnDrift] = {}


class RejectedShare(BaseModel, frozen=True):
    requests: int = 0
    share: Number = None
    limit: Number = None
    places: dict[str, int] = {}  # requests by column, or else by kind of error


class Volume(BaseModel, frozen=True):
    rows: int = 0
    usual: Number = None  # null if too few windows before this one tell
    limits: tuple[float, float] = (0, 1)  # factors of `usual`


class ColumnShare(BaseModel, frozen=True):
    """The share of a column's values that are missing, or not in the contract."""

    share: Number = None
    reference: Number = None
    limit: Number = None


class DataQuality(BaseModel, frozen=True):
    refused: RejectedShare = RejectedShare()
    volume: Volume = Volume()
    nulls: dict[str, ColumnShare] = {}
    unseen: dict[str, ColumnShare] = {}
    outside: dict[str, Number] = {}  # share of numbers beyond the reference's range


class Interval(BaseModel, frozen=True):
    value: Number = None
    low: Number = None
    high: Number = None


class Metric(Interval, frozen=True):
    reference: Number = None  # on the test window
    drop: Number = None  # by how much it surely is worse, as a share of `reference`


class CalibrationError(BaseModel, frozen=True):
    measure: str = ""
    value: Number = None
    reference: Number = None
    limit: Number = None
    worse: bool = False


class CalibrationBin(BaseModel, frozen=True):
    predicted: float
    observed: float
    rows: float


class SliceMetrics(BaseModel, frozen=True, extra="allow"):
    """A slice's rows, and its metrics under their own names."""

    __pydantic_extra__: dict[str, Number]
    column: str
    value: str
    rows: int

    @property
    def metrics(self) -> dict[str, float | None]:
        return self.__pydantic_extra__


class Delay(BaseModel, frozen=True):
    """Days from a prediction to its ground truth."""

    median: Number = None
    p95: Number = None


class Performance(BaseModel, frozen=True):
    """Quality of the predictions whose ground truth is known; null where the labels are too few."""

    labelled: int = 0
    coverage: Number = None
    delay_days: Delay | None = None
    metrics: dict[str, Metric] | None = None
    calibration_error: CalibrationError | None = None
    calibration: list[CalibrationBin] | None = None
    slices: list[SliceMetrics] | None = None


class WindowSummary(BaseModel, frozen=True):
    schema_version: int = 1
    window: str = ""
    start: Time = EPOCH
    end: Time = EPOCH  # exclusive
    made: Time = EPOCH
    model: str = ""
    model_version: str = ""
    rows: int = 0
    sampled: int = 0
    requests: int = 0
    versions: dict[str, int] = {}
    verdicts: list[str] = []
    alarms: list[Alarm] = []
    not_judged: dict[str, str] = {}  # id of a rule, or of a family of rules, and why
    quality: DataQuality = DataQuality()
    drift: Drift | None = None
    performance: Performance | None = None
    report: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> str:
        """The verdicts; a window that no rule could judge is not green."""
        if self.verdicts:
            return ", ".join(self.verdicts)
        return NOT_JUDGED if self.not_judged.keys() >= set(LOOKING) else "nothing to report"

    def metric(self, name: str) -> Metric:
        """Return the numbers of a metric; empty ones if the labels were too few."""
        measured = self.performance.metrics if self.performance else None
        return (measured or {}).get(name, Metric())

    @property
    def coverage(self) -> float | None:
        return self.performance.coverage if self.performance else None

    @property
    def drift_share(self) -> float | None:
        return self.drift.share if self.drift else None

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The known bounds of each metric, and of calibration_error."""
        performance = self.performance or Performance()
        found: dict[str, BaseModel] = {**(performance.metrics or {})}
        if performance.calibration_error:
            found["calibration_error"] = performance.calibration_error
        known = {
            name: numbers.model_dump(include=set(BOUNDS), exclude_none=True)
            for name, numbers in found.items()
        }
        return {name: bounds for name, bounds in known.items() if "value" in bounds}


def read_summary(document: object) -> WindowSummary | None:
    """Return a stored summary; None if this version cannot read it."""
    try:
        return WindowSummary.model_validate(document)
    except (ValidationError, TypeError):
        return None


def read_newest(engine: sa.Engine, model: str) -> WindowSummary | None:
    """Return the summary of a model's newest window; None if there is none."""
    newest = sa.select(WINDOWS.c.summary).where(WINDOWS.c.model == model)
    newest = newest.order_by(WINDOWS.c.end.desc(), WINDOWS.c.made.desc()).limit(1)
    with engine.connect() as connection:
        return read_summary(connection.scalar(newest))
