"""The JSON documents of a project that the showcase reads, less what it does not need of them."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from showcase.processes import Failure


class Alarm(BaseModel):
    """A rule that fired: `rule` for people, `id` and `column` for programs."""

    rule: str
    id: str
    column: str | None = None
    verdict: str
    text: str


class Column(BaseModel):
    drifted: bool


class Drift(BaseModel):
    share: float
    columns: dict[str, Column]


class MonitorSummary(BaseModel):
    """reports/monitor/latest.json: what `monitor` found in a window."""

    window: str
    verdicts: list[str]
    alarms: list[Alarm]
    drift: Drift | None = None
    report: str


class Decision(BaseModel):
    """What speaks for a retraining; `blocked_by` names the rules that speak against it."""

    reasons: list[str] = []
    blocked_by: list[str] = []


class RetrainSummary(BaseModel):
    """reports/retrain/summary.json: what `retrain` decided, and what came of it."""

    result: str
    reason: str = ""
    version: str | None = None
    decision: Decision = Decision()


class Bundle(BaseModel):
    """bundle.json of a bundle."""

    task: str
    target: str
    classes: list[str] | None = None
    positive: str | None = None
    metrics: dict[str, float]


class Promotion(BaseModel):
    """promotion.json of a promoted bundle."""

    version: str


class Gate(BaseModel):
    gate: str
    measure: str
    value: float | None = None
    limit: str = ""
    passed: bool | None = None

    @property
    def reason(self) -> str:
        value = "" if self.value is None else f" {self.value:.4g}"
        return f"{self.gate}: {self.measure}{value}" + (f", limit {self.limit}" * bool(self.limit))


class PromoteSummary(BaseModel):
    """What `promote --json` prints: promoted, refused or unchanged, and every gate's result."""

    outcome: str
    gates: list[Gate] = []

    @property
    def reason(self) -> str:
        """Why the gates refuse the candidate."""
        return "; ".join(gate.reason for gate in self.gates if gate.passed is False)


Document = TypeVar("Document", bound=BaseModel)


def read(path: Path, kind: type[Document]) -> Document:
    """Return a document; Failure if it is missing or something else."""
    try:
        return kind.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}") from None
