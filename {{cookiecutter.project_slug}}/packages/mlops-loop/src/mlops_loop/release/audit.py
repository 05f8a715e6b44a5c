"""Audit: what was promoted, refused or rolled back, when, by whom and why; append-only.

Every line holds the hash of the one before it, so that none can be changed, removed or put in
between unseen; with AUDIT_KEY it is signed, too. Promotions also agree by it: of two that would add
the same line, the database accepts one.
"""

import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

import sqlalchemy as sa
from pydantic import BaseModel, JsonValue
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.base.pipeline import user_name
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.prediction_log.connection import connect

# The events after which another version is champion.
MOVES = ("promoted", "rolled back", "returned", "restored")
MEND = "restore that database from a backup, or begin anew under another MLFLOW_EXPERIMENT_NAME"
LINES = sa.Table(
    "audit_log",
    sa.MetaData(),
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, ...
    sa.Column("time", sa.String(32), nullable=False),  # ISO 8601, UTC
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),  # JSON: what the event tells
    sa.Column("previous_sha256", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("signature", sa.String(64)),  # HMAC-SHA256 of `sha256` with AUDIT_KEY
)
# Of version 1.0: `line` is the JSON of what `document` returns.
EARLIER = sa.table("audit", *map(sa.column, ("model", "number", "line", "sha256")))


class Overtaken(Failure):
    """Another process has added a line that changes what this one builds on."""


class Facts(BaseModel, frozen=True, extra="allow"):
    """What several events tell; each may tell more."""

    __pydantic_extra__: dict[str, JsonValue]
    version: str = ""
    before: str | None = None  # the champion of before
    reason: str = ""
    bundle_sha256: str | None = None
    git_commit: str | None = None


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    model: str
    number: int
    time: str
    by: str
    event: str
    text: str  # the column `facts`
    previous_sha256: str
    sha256: str = ""
    signature: str | None = None

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

    def signed(self, key: bytes) -> str | None:
        """Return the signature that the line must have; None without a key."""
        return hmac.digest(key, self.sha256.encode(), "sha256").hex() if key else None


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
        reason = redacted(str(error).splitlines()[0])
        raise Failure(f"the audit log, see PREDICTION_LOG_URL, cannot be used: {reason}") from None


def open_audit(url: str) -> sa.Engine:
    """Return an engine on the prediction log's database; make the audit's table if needed."""
    log = connect(url)
    with usable():
        if not sa.inspect(log).has_table(LINES.name):
            rows = earlier_rows(log)
            with log.begin() as connection:
                connection.execute(CreateTable(LINES, if_not_exists=True))
                if rows:
                    connection.execute(sa.insert(LINES), rows)
    return log


def earlier_rows(log: sa.Engine) -> list[dict[str, JsonValue]]:
    """Return the lines of version 1.0 as rows; their hashes stay what they were."""
    rows = []
    if sa.inspect(log).has_table(EARLIER.name):
        with log.connect() as connection:
            lines = connection.execute(sa.select(EARLIER)).all()
        for _, number, text, digest in lines:
            try:
                told = json.loads(text)
                place = ("model", "number", "time", "by", "event", "previous_sha256")
                row = {key: told.pop(key) for key in place}
            except (ValueError, KeyError):
                raise Refusal(f"line {number} of the audit log was changed: {MEND}") from None
            rows.append(row | {"facts": json.dumps(told, ensure_ascii=False), "sha256": digest})
    return rows


def read(log: sa.Engine, model: str, *events: str, newest: int | None = None) -> list[Line]:
    """Return the lines of one model's log, oldest first: all, or the newest, or of some events."""
    query = sa.select(LINES).where(LINES.c.model == model)
    if events:
        query = query.where(LINES.c.event.in_(events))
    with usable(), log.connect() as connection:
        rows = connection.execute(query.order_by(LINES.c.number.desc()).limit(newest)).all()
    return [Line(*row) for row in reversed(rows)]


def last(log: sa.Engine, model: str, *events: str) -> Line | None:
    """Return the newest line of these events; refuse one that was changed."""
    for line in read(log, model, *events, newest=1):
        if line.digest != line.sha256:
            raise Refusal(f"line {line.number} of the audit log was changed: {MEND}")
        return line
    return None


def last_move(log: sa.Engine, model: str) -> Seen:
    """Return the line by which the present champion became that."""
    return Seen(last(log, model, *MOVES), MOVES)


def append(log: sa.Engine, model: str, event: str, facts: Facts, seen: Seen | None = None) -> Line:
    """Add a line; return it. Raises Overtaken if what it builds on, `seen`, no longer holds."""
    told = json.dumps(facts.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)
    while True:
        end = last(log, model)
        if seen and (newer := last(log, model, *seen.events)) != seen.line:
            did = f"{newer.event} {newer.facts.version}".strip() if newer else "removed a line"
            raise Overtaken(f"meanwhile another process did this: {did}; run this again")
        number = end.number + 1 if end else 1
        time = datetime.now(UTC).isoformat(timespec="seconds")
        who = os.environ.get("GITHUB_ACTOR") or user_name()  # the workflow's, or this machine's
        line = Line(model, number, time, who, event, told, end.sha256 if end else "")
        line = replace(line, sha256=line.digest)
        line = replace(line, signature=line.signed(signing_key()))
        with usable(), suppress(IntegrityError):  # another process has added one of this number
            with log.begin() as connection:
                connection.execute(sa.insert(LINES).values(astuple(line)))
            return line


def signing_key() -> bytes:
    return load_settings().audit_key.get_secret_value().encode()


def verify(log: sa.Engine, model: str, anchors: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the log, line by line; nothing if it is whole.

    `anchors` are hashes of lines that must be there, and the versions that they are about: without
    them nobody could see that the last lines are gone.
    """
    missing = dict(anchors)
    problems = list[str]()
    before = ""
    expected = 1
    key = signing_key()
    signed = False  # lines of before there was a key are not
    for line in read(log, model):
        signed = signed or line.signature is not None
        if line.digest != line.sha256:
            problems.append(f"line {line.number} was changed: its hash is another")
        elif line.number != expected:
            problems.append(f"line {expected} is missing")
        elif line.previous_sha256 != before:
            problems.append(f"line {line.number} does not follow the one before it")
        elif key and signed and line.signature != line.signed(key):
            problems.append(f"line {line.number} is not signed with AUDIT_KEY")
        missing.pop(line.sha256, None)
        before = line.sha256
        expected = line.number + 1
    return problems + [f"the line about version {number} is missing" for number in missing.values()]


def why_no_champion(settings: Settings) -> str:
    """Return why there is no bundle to serve, from the log, and what to do."""
    model = settings.mlflow_experiment_name
    with suppress(Failure):
        log = open_audit(settings.prediction_log_url)
        refused = last(log, model, "refused")
        if refused and not last(log, model, *MOVES):
            why = f"version {refused.facts.version} was refused: {refused.facts.reason}"
            return f"there is no bundle in {settings.bundle}, as there is no champion: {why}"
    return f"there is no bundle in {settings.bundle}: run `uv run dvc repro`, then `promote`"
