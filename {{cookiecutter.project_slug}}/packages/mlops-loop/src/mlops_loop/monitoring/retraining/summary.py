"""Summary: what a retraining decided and what came of it: reports/retrain/summary.json."""

from typing import Literal

from pydantic import BaseModel, field_serializer

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS
from mlops_loop.base.params import Retrain as Limits
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.monitoring.retraining.decision import Decision, Evidence
from mlops_loop.monitoring.retraining.training_windows import TrainingWindows
from mlops_loop.prediction_log.window_summary import Time, WindowSummary

FOLDER = REPORTS / "retrain"
SHOWN_WINDOWS = 24
Result = Literal["promoted", "refused", "nothing new", "failed", "declined"]


class DecisionDocument(BaseModel, frozen=True):
    """`reasons` and `against` are for people; `rules` and `blocked_by` name their rules."""

    retrain: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    rules: tuple[str, ...]
    blocked_by: tuple[str, ...]

    @classmethod
    def of(cls, decision: Decision) -> "DecisionDocument":
        return cls(
            retrain=decision.retrain,
            reasons=tuple(map(str, decision.reasons)),
            against=tuple(map(str, decision.against)),
            rules=tuple(ground.rule for ground in decision.reasons),
            blocked_by=tuple(ground.rule for ground in decision.against),
        )


class WindowTrend(BaseModel, frozen=True):
    """What is plotted of a monitoring window: the metric, that of the test window, and drift."""

    window: str
    end: Time
    model_version: str
    verdicts: list[str]
    value: float | None
    reference: float | None
    drift_share: float | None


class Split(BaseModel, frozen=True):
    rows: int
    first: str | None = None
    last: str | None = None


class Lineage(BaseModel, frozen=True):
    """What the audit log says of the version that was promoted or refused."""

    version: str | None = None
    before: str | None = None
    gates: list[GateResult] | None = None
    data_sha256: dict[str, str] | None = None
    bundle_sha256: str | None = None
    git_commit: str | None = None
    dvc_lock: str | None = None


class RetrainingSummary(BaseModel, frozen=True):
    """Keys are only added while `schema_version` stays. `promoted`: there is a new champion."""

    schema_version: int = 1
    model: str
    until: str
    note: str | None = None
    result: Result = "declined"
    promoted: bool = False
    reason: str = ""
    decision: DecisionDocument
    evidence: Evidence
    limits: Limits
    metric: str
    monitor: list[WindowTrend]
    windows: TrainingWindows | None = None
    parts: dict[str, Split] | None = None
    metrics: dict[str, dict[str, float | None]] | None = None
    version: str | None = None
    before: str | None = None
    gates: list[GateResult] | None = None
    data_sha256: dict[str, str] | None = None
    bundle_sha256: str | None = None
    git_commit: str | None = None
    dvc_lock: str | None = None

    @field_serializer("windows")
    def as_sections(
        self, windows: TrainingWindows | None
    ) -> dict[str, dict[str, str | None]] | None:
        return windows.document() if windows else None

    def ended(self, result: Result, reason: str = "") -> "RetrainingSummary":
        update = {"result": result, "promoted": result == "promoted", "reason": reason}
        return self.model_copy(update=update)

    def with_lineage(self, lineage: Lineage) -> "RetrainingSummary":
        return self.model_copy(update=dict(lineage))


def trends(windows: list[WindowSummary], metric: str) -> list[WindowTrend]:
    return [
        WindowTrend(
            window=window.window,
            end=window.end,
            model_version=window.model_version,
            verdicts=window.verdicts,
            value=window.metric(metric).value,
            reference=window.metric(metric).reference,
            drift_share=window.drift_share,
        )
        for window in windows[-SHOWN_WINDOWS:]
    ]


def write_json(summary: RetrainingSummary) -> None:
    files.write_json(FOLDER / "summary.json", files.plain(summary.model_dump(mode="json")))
