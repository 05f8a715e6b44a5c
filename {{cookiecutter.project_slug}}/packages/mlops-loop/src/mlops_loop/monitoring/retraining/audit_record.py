"""Audit record: the lines about retrainings in the audit log, and what they tell the next one."""

from datetime import datetime

import sqlalchemy as sa
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue

from mlops_loop.base.errors import Failure
from mlops_loop.monitoring.retraining.training_windows import TrainingWindows
from mlops_loop.release import audit

STARTED = "retraining"
FAILED = "retraining failed"
DECLINED = "not retrained"
UNCHANGED = "nothing new"
ENDS = (UNCHANGED, "promoted", "refused")  # of a retraining that was carried out


class KnownFacts(BaseModel, frozen=True):
    """The evidence that a line holds."""

    champion: str | None = None
    trained_through: datetime | None = None
    rows: int | None = None
    newest: datetime | None = None
    changed: tuple[str, ...] = ()


class Record(BaseModel):
    """A line about a retraining. Older versions called `fingerprint` made_of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    until: str
    note: str | None = None
    reasons: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    evidence: KnownFacts | None = None
    reason: str | None = None
    windows: TrainingWindows | None = None
    fingerprint: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("fingerprint", "made_of")
    )
    seen: datetime | None = None  # until when the monitor's windows counted, UTC without a zone
    retraining: int | None = None  # number of the line that failed

    def facts(self) -> audit.Facts:
        """Return what the line holds: what is known of it."""
        dumped = self.model_dump(mode="json", exclude_unset=True)
        document: dict[str, JsonValue] = {
            name: value for name, value in dumped.items() if value is not None
        }
        if self.windows:
            document["windows"] = {
                name: {**dates} for name, dates in self.windows.document().items()
            }
        return audit.Facts.model_validate(document)

    @property
    def trained_through(self) -> datetime:
        """The end of the data that the retraining learned from."""
        end = self.windows.ingest.get("end") if self.windows and self.windows.ingest else None
        return datetime.fromisoformat(end or self.until)

    @property
    def seen_until(self) -> datetime:
        return self.seen or datetime.fromisoformat(self.until)


class History(BaseModel, frozen=True):
    """The retrainings before this one."""

    started: tuple[datetime, ...]  # `until` of each, oldest first
    finished: Record | None  # the last one that came to an end
    last_line: audit.Line | None  # of the last start, which a new one builds on


def read_history(log: sa.Engine, model: str) -> History:
    lines = list(audit.read(log, model))
    started = [read_record(line) for line in lines if line.event == STARTED]
    finished = last_finished(lines)
    return History(
        started=tuple(datetime.fromisoformat(record.until) for record in started),
        finished=read_record(finished) if finished else None,
        last_line=audit.last(log, model, STARTED),
    )


def read_record(line: audit.Line) -> Record:
    return Record.model_validate(line.told)


def last_finished(lines: list[audit.Line]) -> audit.Line | None:
    """Return the line of the last retraining that came to an end: neither failed nor killed."""
    last = running = None
    for line in lines:
        if line.event == STARTED:
            running = line
        elif line.event == FAILED:
            running = None
        elif line.event in ENDS and running:
            last = running
            running = None
    return last


def start(log: sa.Engine, model: str, record: Record, history: History) -> audit.Line:
    """Append that a retraining starts; return the line.

    Raises audit.Overtaken if another one has started since.
    """
    seen = audit.Seen(history.last_line, (STARTED,))
    return audit.append(log, model, STARTED, record.facts(), seen)


def decline(log: sa.Engine, model: str, record: Record) -> None:
    audit.append(log, model, DECLINED, record.facts())


def unchanged(log: sa.Engine, model: str, until: str) -> None:
    reason = "the pipeline gives what is champion already"
    audit.append(log, model, UNCHANGED, Record(until=until, reason=reason).facts())


def fail(log: sa.Engine, started: audit.Line, error: BaseException) -> str:
    """Append that a retraining failed, so that its reasons still hold; return why."""
    why = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        why = "it was interrupted"
    record = Record(until=read_record(started).until, retraining=started.number, reason=why)
    audit.append(log, started.model, FAILED, record.facts())
    return why
