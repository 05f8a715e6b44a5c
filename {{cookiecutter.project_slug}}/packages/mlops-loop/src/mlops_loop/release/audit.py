"""Audit log: what was promoted, refused or rolled back, when, by whom and why; append-only.

Every line holds the hash of the one before it, so that none can be changed, removed or put in
between unseen; with AUDIT_KEY it is signed, too. Promotions also agree by it: of two that would add
the same line, the database accepts one.
"""

import hmac
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import sqlalchemy as sa
from pydantic import BaseModel, JsonValue
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.schema import CreateTable

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.pipeline import user_name
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.prediction_log.connection import connect, error_summary
from mlops_loop.tracking.registry import Registry, open_registry

# The events after which another version is champion.
MOVES = ("promoted", "rolled back", "returned", "restored")
# Tag of a version: the line of the log that its aliases and tags follow.
SETTLED = "audit_sha256"
SHOWN = 5  # problems in the line of a refusal
MEND = "restore that database from a backup, or begin anew under another MLFLOW_EXPERIMENT_NAME"


class Overtaken(Failure):
    """Another process has added a line that changes what this one builds on."""


class Facts(BaseModel, frozen=True, extra="allow"):
    """What an event tells; each may tell more."""

    __pydantic_extra__: dict[str, JsonValue]
    version: str = ""
    before: str | None = None  # the champion of before
    reason: str = ""
    gates: list[GateResult] = []
    data_sha256: dict[str, str] = {}
    bundle_sha256: str | None = None
    git_commit: str | None = None
    dvc_lock: str | None = None


class Base(MappedAsDataclass, DeclarativeBase):
    """The tables of the audit log."""


class Line(Base):
    """A line of the log, and its row in the table."""

    __tablename__ = "audit_log"
    model: Mapped[str] = mapped_column(sa.String(250), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, 3, ...
    time: Mapped[str] = mapped_column(sa.String(32))  # ISO 8601, UTC
    by: Mapped[str] = mapped_column(sa.String(250))
    event: Mapped[str] = mapped_column(sa.String(32))
    text: Mapped[str] = mapped_column("facts", sa.Text)  # JSON: what the event tells
    previous_sha256: Mapped[str] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(sa.String(64), default="")
    # HMAC-SHA256 of `sha256` with AUDIT_KEY.
    signature: Mapped[str | None] = mapped_column(sa.String(64), default=None)

    @property
    def told(self) -> dict[str, JsonValue]:
        with suppress(ValueError):  # it was changed, which the hash shows
            return dict(json.loads(self.text))
        return {}

    @property
    def facts(self) -> Facts:
        return Facts.model_validate(self.told)

    @property
    def document(self) -> dict[str, JsonValue]:
        """What is hashed, in this order."""
        place = {name: getattr(self, name) for name in ("model", "number", "time", "by", "event")}
        return place | self.told | {"previous_sha256": self.previous_sha256}

    @property
    def digest(self) -> str:
        """The hash that the line must have."""
        return sha256(json.dumps(self.document, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class Seen:
    """The last line of some events that a new line builds on; None if there was none."""

    line: Line | None
    events: tuple[str, ...]


@contextmanager
def usable() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        log = "the audit log, see PREDICTION_LOG_URL,"
        raise Failure(f"{log} cannot be used: {error_summary(error)}") from None


class AuditLog:
    """The lines about one model, in the prediction log's database."""

    def __init__(self, settings: Settings) -> None:
        self.model = settings.mlflow_experiment_name
        self.key = settings.audit_key.get_secret_value().encode()
        self.engine = connect(settings.prediction_log_url)
        with usable():
            table = Base.metadata.tables[Line.__tablename__]
            if not sa.inspect(self.engine).has_table(table.name):
                with self.engine.begin() as connection:
                    connection.execute(CreateTable(table, if_not_exists=True))

    def lines(self, *events: str, newest: int | None = None) -> Sequence[Line]:
        """Return the lines, oldest first: all, or the newest, or those of some events."""
        query = sa.select(Line).where(Line.model == self.model)
        if events:
            query = query.where(Line.event.in_(events))
        with usable(), Session(self.engine) as session:
            found = session.scalars(query.order_by(Line.number.desc()).limit(newest)).all()
        return found[::-1]

    def last(self, *events: str) -> Line | None:
        """Return the newest line of these events; refuse one that was changed."""
        for line in self.lines(*events, newest=1):
            if line.digest != line.sha256:
                raise Refusal(f"line {line.number} of the audit log was changed: {MEND}")
            return line
        return None

    def seen(self, *events: str) -> Seen:
        return Seen(self.last(*events), events)

    def append(self, event: str, facts: Facts, seen: Seen | None = None) -> Line:
        """Add a line; return it. Raises Overtaken if what it builds on, `seen`, is not the last."""
        told = json.dumps(facts.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)
        who = os.environ.get("GITHUB_ACTOR") or user_name()  # the workflow's, or this machine's
        while True:
            end = self.last()
            if seen and (newer := self.last(*seen.events)) != seen.line:
                did = f"{newer.event} {newer.facts.version}".strip() if newer else "removed a line"
                raise Overtaken(f"meanwhile another process did this: {did}; run this again")
            number, before = (end.number + 1, end.sha256) if end else (1, "")
            time = datetime.now(UTC).isoformat(timespec="seconds")
            line = Line(self.model, number, time, who, event, told, before)
            line.sha256 = line.digest
            line.signature = self.sign(line.sha256)
            with (
                usable(),
                suppress(IntegrityError),  # another process has added a line of this number
                Session(self.engine, expire_on_commit=False) as session,
            ):
                session.add(line)
                session.commit()
                return line

    def sign(self, digest: str) -> str | None:
        return hmac.digest(self.key, digest.encode(), "sha256").hex() if self.key else None

    def verify(self, anchors: Mapping[str, str]) -> list[str]:
        """Return what is wrong with the log, line by line; nothing if it is whole.

        `anchors` are hashes of lines that must be there, and the versions that they are about:
        without them nobody could see that the last lines are gone.
        """
        missing = dict(anchors)
        problems = list[str]()
        before = ""
        expected = 1
        signed = False  # lines of before there was a key are not
        for line in self.lines():
            signed = signed or line.signature is not None
            if line.digest != line.sha256:
                problems.append(f"line {line.number} was changed: its hash is another")
            elif line.number != expected:
                problems.append(f"line {expected} is missing")
            elif line.previous_sha256 != before:
                problems.append(f"line {line.number} does not follow the one before it")
            elif self.key and signed and line.signature != self.sign(line.sha256):
                problems.append(f"line {line.number} is not signed with AUDIT_KEY")
            missing.pop(line.sha256, None)
            before = line.sha256
            expected = line.number + 1
        gone = missing.values()
        return problems + [f"the line about version {number} is missing" for number in gone]


def why_no_champion(settings: Settings) -> str:
    """Return why there is no bundle to serve, from the log, and what to do."""
    nothing = f"there is no bundle in {settings.bundle}"
    with suppress(Failure):
        log = AuditLog(settings)
        refused = log.last("refused")
        if refused and not log.last(*MOVES):
            why = f"version {refused.facts.version} was refused: {refused.facts.reason}"
            return f"{nothing}, as there is no champion: {why}"
    return f"{nothing}: run `uv run dvc repro`, then `promote`"


def anchors(registry: Registry) -> dict[str, str]:
    """Return the hashes of the lines that the registry's versions stand by, and the versions."""
    tagged = [version for version in registry.versions() if SETTLED in version.tags]
    return {version.tags[SETTLED]: version.number for version in tagged}


def problems(registry: Registry, log: AuditLog) -> list[str]:
    """Return what is wrong with the audit log, in itself and beside the registry."""
    if found := log.verify(anchors(registry)):
        return found
    champion = registry.by_alias("champion")
    move = log.last(*MOVES)
    if champion and (not move or champion.number != move.facts.version):
        known = f"the registry's champion is version {champion.number}"
        return [f"{known}, but the log has no promotion of it"]
    return []


def show_audit(newest: int, as_json: bool) -> None:
    """Print the audit log; raise a Refusal if it, or the registry, was tampered with."""
    log = AuditLog(load_settings())
    found = problems(open_registry(load_settings()), log)
    lines = log.lines()
    for line in lines if as_json else ():
        sealed = {"sha256": line.sha256} | ({"signature": line.signature} if line.signature else {})
        print(json.dumps(line.document | sealed, ensure_ascii=False))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "; ".join(found[:SHOWN])
        raise Refusal(f"the audit log cannot be trusted: {listed}{more}; {MEND}")
    if not as_json:
        print_lines(lines[max(0, len(lines) - newest) :])
    signed = sum(line.signature is not None for line in lines)
    checked = "with AUDIT_KEY" if log.key else "but AUDIT_KEY is not set to check them"
    print("every line is in its place, and the registry agrees", file=sys.stderr)
    print(f"{signed} of {len(lines)} lines are signed, {checked}", file=sys.stderr)


def print_lines(lines: Sequence[Line]) -> None:
    table = Table("line", "when", "what", "version", "by", "commit", "why")
    for line in lines:
        facts = line.facts
        commit = facts.git_commit or ""
        commit = commit[:10] + "-dirty" * commit.endswith("-dirty")
        time = line.time[:19].replace("T", " ")
        cells = (str(line.number), time, line.event, facts.version, line.by, commit, facts.reason)
        table.add_row(*map(escape, cells))
    open_console().print(table)
