"""Document: what a retraining found, decided and made; for reports, and for the audit log."""

from datetime import datetime
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, Field, computed_field

from mlops_loop.base.params import Retrain as Limits
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.monitoring.retraining.decide import Decision, Evidence
from mlops_loop.monitoring.retraining.windows import Windows
from mlops_loop.prediction_log.window_summary import Number, Time, WindowSummary
from mlops_loop.release import audit

STARTED = "retraining"
FAILED = "retraining failed"
DECLINED = "not retrained"
UNCHANGED: Literal["nothing new"] = "nothing new"
ENDS = (UNCHANGED, "promoted", "refused")  # of a retraining that was carried out
RECORDED = {"until", "note", "evidence", "windows", "fingerprint", "seen"}
Result = Literal["promoted", "refused", "nothing new", "failed", "declined"]
Measured = dict[str, dict[str, Number]]  # metrics of candidate, champion and naive baseline


class Record(BaseModel, frozen=True):
    """What the next retraining needs of this one. Older versions called `fingerprint` made_of."""

    until: str
    windows: Windows | None = None
    fingerprint: dict[str, str] = Field(
        default={}, validation_alias=AliasChoices("fingerprint", "made_of")
    )
    seen: datetime | None = None  # until when the monitor's windows counted, UTC without a zone

    @property
    def trained_through(self) -> datetime:
        """The end of the data that the retraining learned from."""
        end = (self.windows or {}).get("ingest", {}).get("end")
        return datetime.fromisoformat(end or self.until)

    @property
    def seen_until(self) -> datetime:
        return self.seen or datetime.fromisoformat(self.until)


class Lineage(BaseModel, frozen=True):
    """What the audit log says of the version that was promoted or refused."""

    version: str | None = None
    before: str | None = None
    gates: list[GateResult] | None = None
    data_sha256: dict[str, str] | None = None
    bundle_sha256: str | None = None
    git_commit: str | None = None
    dvc_lock: str | None = None


class WindowTrend(BaseModel, frozen=True):
    """What is plotted of a monitoring window: the metric, that of the test window, and drift."""

    window: str
    end: Time
    model_version: str
    verdicts: list[str]
    value: float | None
    reference: float | None
    drift_share: float | None

    @classmethod
    def of(cls, window: WindowSummary, metric: str) -> Self:
        found = window.metric(metric)
        numbers = {"value": found.value, "reference": found.reference}
        return cls.model_validate({**dict(window), **numbers, "drift_share": window.drift_share})


class Split(BaseModel, frozen=True):
    rows: int
    first: str | None = None
    last: str | None = None


class Retraining(Record, Lineage, frozen=True):
    """reports/retrain/summary.json. Keys are only added while `schema_version` stays."""

    schema_version: int = 1
    model: str
    note: str | None = None
    result: Result = "declined"
    reason: str = ""
    decision: Decision
    evidence: Evidence
    limits: Limits
    metric: str
    monitor: list[WindowTrend]
    parts: dict[str, Split] | None = None
    metrics: Measured | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def promoted(self) -> bool:
        """Whether there is a new champion."""
        return self.result == "promoted"

    def ended(self, result: Result, reason: str = "") -> "Retraining":
        return self.model_copy(update={"result": result, "reason": reason})

    def append(
        self, log: audit.AuditLog, event: str, why: str, seen: audit.Seen | None = None
    ) -> audit.Line:
        """Append a line to the audit log; raise audit.Overtaken if `seen` no longer holds."""
        told = self.model_dump(mode="json", include=RECORDED, exclude_none=True)
        told |= self.decision.model_dump(mode="json", include={"reasons", "against"})
        facts = audit.Facts.model_validate(told | {"reason": why})
        return log.append(event, facts, seen)
