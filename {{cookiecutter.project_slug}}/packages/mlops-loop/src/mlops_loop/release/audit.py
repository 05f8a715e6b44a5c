"""Audit: what was promoted, refused or rolled back, when, by whom and why; append-only.

Every line holds the hash of the one before it, so that none can be changed, removed or put in
between unseen; with AUDIT_KEY it is signed, too. Promotions also agree by it: of two that would add
the same line, the database accepts one.
"""

import getpass
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

import sqlalchemy as sa
from pydantic import BaseModel, JsonValue
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.prediction_log.connection import connect

# The events after which another version is champion.
MOVES = ("promoted", "rolled back", "returned", "restored")
MEND = "restore that database from a backup, or begin anew under another MLFLOW_EXPERIMENT_NAME"


class Overtaken(Failure):
    """Another process has added a line that changes what this one builds on."""


METADATA = sa.MetaData()
LINES = sa.Table(
    "audit_log",
    METADATA,
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
# Of an older version: `line` is the JSON of what `document` returns.
EARLIER = sa.table("audit", *map(sa.column, ("model", "number", "line", "sha256")))


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
    sha256: str
    signature: str | None = None

    @property
    def told(self) -> dict[str, JsonValue]:
        try:
            told: dict[str, JsonValue] = json.loads(self.text)
        except ValueError:
            return {}  # it was changed, which the hash shows
        return told

    @property
    def facts(self) -> Facts:
        return Facts.model_validate(self.told)

    @property
    def document(self) -> dict[str, JsonValue]:
        """What is hashed, in this order."""
        return {
            **{"model": self.model, "number": self.number},
            **{"time": self.time, "by": self.by, "event": self.event},
            **self.told,
            "previous_sha256": self.previous_sha256,
        }

    @property
    def digest(self) -> str:
        """The hash that the line must have."""
        text = json.dumps(self.document, ensure_ascii=False)
        return sha256(text.encode()).hexdigest()

    def as_json(self) -> str:
        """Return the line as `audit --json` prints it: with its hash."""
        signed = {"signature": self.signature} if self.signature else {}
        return json.dumps(self.document | {"sha256": self.sha256} | signed, ensure_ascii=False)


def open_audit(url: str) -> sa.Engine:
    """Return an engine on the prediction log's database; make the audit's table if needed."""
    engine = connect(url)
    try:
        if not sa.inspect(engine).has_table(LINES.name):
            create(engine)
        return engine
    except SQLAlchemyError as error:
        raise unusable(error) from None


def create(engine: sa.Engine) -> None:
    """Make the table, with the lines of an older version's, unless another process does."""
    earlier = []
    if sa.inspect(engine).has_table(EARLIER.name):
        with engine.connect() as connection:
            earlier = [from_earlier(*row) for row in connection.execute(sa.select(EARLIER))]
    try:
        with engine.begin() as connection:
            LINES.create(connection)
            if earlier:
                connection.execute(sa.insert(LINES), earlier)
    except SQLAlchemyError:
        if not sa.inspect(engine).has_table(LINES.name):
            raise


def from_earlier(model: str, number: int, text: str, digest: str) -> dict[str, JsonValue]:
    """Return an older version's line as a row; its hash stays what it was."""
    try:
        told = json.loads(text)
        place = {key: told.pop(key) for key in ("time", "by", "event", "previous_sha256")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refusal(f"line {number} of the audit log was changed: {MEND}") from None
    told.pop("model", None)
    told.pop("number", None)
    facts = json.dumps(told, ensure_ascii=False)
    return {"model": model, "number": number, **place, "facts": facts, "sha256": digest}


def who() -> str:
    """Return who runs this: the person who started the workflow, or the user of this machine."""
    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"uid {os.getuid()}"


@contextmanager
def connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection that streams results; turn the database's errors into Failures."""
    try:
        with engine.connect() as connection:
            yield connection.execution_options(stream_results=True)
    except SQLAlchemyError as error:
        raise unusable(error) from None


def unusable(error: Exception) -> Failure:
    reason = redacted(str(error).splitlines()[0])
    return Failure(f"the audit log, see PREDICTION_LOG_URL, cannot be used: {reason}")


def read(engine: sa.Engine, model: str, *events: str, newest: int | None = None) -> Iterator[Line]:
    """Yield the lines of one model's log, oldest first: all, or those of some events.

    With `newest` only so many, of which the newest comes first.
    """
    query = sa.select(LINES).where(LINES.c.model == model)
    if events:
        query = query.where(LINES.c.event.in_(events))
    order = LINES.c.number if newest is None else LINES.c.number.desc()
    with connected(engine) as connection:
        for row in connection.execute(query.order_by(order).limit(newest)):
            yield Line(*row)


def last(engine: sa.Engine, model: str, *events: str) -> Line | None:
    """Return the newest line of these events; refuse one that was changed."""
    line = next(read(engine, model, *events, newest=1), None)
    if line and line.digest != line.sha256:
        raise Refusal(f"line {line.number} of the audit log was changed: {MEND}")
    return line


@dataclass(frozen=True)
class Seen:
    """The last line of some events that a new line builds on; None if there was none."""

    line: Line | None
    events: tuple[str, ...]


def last_move(engine: sa.Engine, model: str) -> Seen:
    """Return the line by which the present champion became that."""
    return Seen(last(engine, model, *MOVES), MOVES)


def check_unchanged(engine: sa.Engine, model: str, seen: Seen) -> None:
    """Raise Overtaken if another process has added a line of these events since."""
    newer = last(engine, model, *seen.events)
    if newer == seen.line:
        return
    if seen.events != MOVES:
        raise Overtaken("meanwhile another process began to retrain")
    version = newer.facts.version if newer else "none"
    raise Overtaken(f"meanwhile another process made version {version} champion: run this again")


def append(
    engine: sa.Engine, model: str, event: str, facts: Facts, seen: Seen | None = None
) -> Line:
    """Add a line; return it. Raises Overtaken if what it builds on, `seen`, no longer holds."""
    told = json.dumps(facts.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)
    key = signing_key()
    while True:
        end = last(engine, model)
        if seen:
            check_unchanged(engine, model, seen)
        number = end.number + 1 if end else 1
        time = datetime.now(UTC).isoformat(timespec="seconds")
        previous = end.sha256 if end else ""
        unsealed = Line(model, number, time, who(), event, told, previous, sha256="")
        digest = unsealed.digest
        line = replace(unsealed, sha256=digest, signature=sign(digest, key))
        row = dict(zip(LINES.c.keys(), vars(line).values(), strict=True))
        try:
            with engine.begin() as connection:
                connection.execute(sa.insert(LINES), row)
            return line
        except IntegrityError:
            continue  # another process has just added a line of this number: look at it
        except SQLAlchemyError as error:
            raise unusable(error) from None


def why_no_champion(settings: Settings) -> str:
    """Return why there is no bundle to serve, from the log, and what to do."""
    none = f"there is no bundle in {settings.bundle}"
    with suppress(Failure):
        log = open_audit(settings.prediction_log_url)
        refused = last(log, settings.mlflow_experiment_name, "refused")
        if refused and not last(log, settings.mlflow_experiment_name, *MOVES):
            version = f"version {refused.facts.version} was refused"
            return f"{none}, as there is no champion: {version}: {refused.facts.reason}"
    return f"{none}: run `uv run dvc repro`, then `promote`"


def signing_key() -> bytes:
    return load_settings().audit_key.get_secret_value().encode()


def sign(digest: str, key: bytes) -> str | None:
    """Return the signature of a line's hash; None without a key."""
    return hmac.digest(key, digest.encode(), "sha256").hex() if key else None


def verify(engine: sa.Engine, model: str, anchors: Mapping[str, str]) -> list[str]:
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
    for line in read(engine, model):
        signed = signed or line.signature is not None
        if line.digest != line.sha256:
            problems.append(f"line {line.number} was changed: its hash is another")
        elif line.number != expected:
            problems.append(f"line {expected} is missing")
        elif line.previous_sha256 != before:
            follows = f"line {line.number} does not follow the one before it"
            problems.append(f"{follows}: either was changed")
        elif key and signed and line.signature != sign(line.sha256, key):
            problems.append(f"line {line.number} is not signed with AUDIT_KEY")
        missing.pop(line.sha256, None)
        before = line.sha256
        expected = line.number + 1
    problems += [f"the line about version {version} is missing" for version in missing.values()]
    return problems
