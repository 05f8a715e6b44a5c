"""Document: what a retraining found, decided and made; for reports, and for the audit log."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, computed_field

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS
from mlops_loop.base.params import Retrain as Limits
from mlops_loop.base.project import current_project
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.monitoring.retraining.decide import Decision, Evidence
from mlops_loop.monitoring.retraining.windows import Windows
from mlops_loop.prediction_log.window_summary import Number
from mlops_loop.release import audit
from mlops_loop.reporting import markdown, page
from mlops_loop.training.card.promotion import gate_rows

FOLDER = REPORTS / "retrain"
# Events of the audit log. Of a retraining that came to an end they are its result.
STARTED = "retraining"
FAILED = "retraining failed"
DECLINED = "not retrained"
UNCHANGED: Literal["nothing new"] = "nothing new"
ENDS = (UNCHANGED, "promoted", "refused")
RECORDED = {"until", "note", "evidence", "windows", "fingerprint", "seen"}
Result = Literal["promoted", "refused", "nothing new", "failed", "declined"]


class Record(BaseModel):
    """What the next retraining needs of this one."""

    until: str
    windows: Windows = {}
    fingerprint: dict[str, str] = {}
    seen: datetime | None = None  # until when the monitor's windows counted, UTC without a zone

    @property
    def trained_through(self) -> datetime:
        """The end of the data that the retraining learned from."""
        return datetime.fromisoformat(self.windows.get("ingest", {}).get("end") or self.until)


class Retraining(Record):
    """reports/retrain/summary.json. Keys are only added while `schema_version` stays."""

    schema_version: int = 1
    model: str
    note: str | None = None
    result: Result = "declined"
    reason: str = ""
    decision: Decision
    evidence: Evidence
    limits: Limits
    version: str | None = None  # that the gates decided on
    gates: list[GateResult] = []
    metrics: dict[str, dict[str, Number]] = {}  # of candidate and naive baseline

    @computed_field  # type: ignore[prop-decorator]
    @property
    def promoted(self) -> bool:
        """Whether there is a new champion."""
        return self.result == "promoted"

    def append(
        self, log: audit.AuditLog, event: str, why: str, seen: audit.Seen | None = None
    ) -> audit.Line:
        """Append a line to the audit log; raise audit.Overtaken if `seen` no longer holds."""
        told = self.model_dump(mode="json", include=RECORDED, exclude_none=True)
        told |= self.decision.model_dump(mode="json", include={"reasons", "against"})
        facts = audit.Facts.model_validate(told | {"reason": why})
        return log.append(event, facts, seen)

    def write(self) -> None:
        """Write summary.json, and summary.md for a pull request, which summary.html shows too."""
        files.write_json(FOLDER / "summary.json", files.plain(self.model_dump(mode="json")))
        text = markdown.render(
            "retraining.md",
            project=current_project().name,
            summary=self,
            found=self.evidence,
            limits=self.limits,
            gates=gate_rows(self.gates),
        )
        files.write_text(FOLDER / "summary.md", text)
        path = page.PAGES["Retraining"]
        facts = [f"until {self.until}", self.result]
        body = markdown.to_html(text)
        html = page.compose(path, "document.html", title="Retraining", facts=facts, body=body)
        files.write_text(path, html)
        page.write_overview()
        print(f"summary: {FOLDER}/summary.md")
