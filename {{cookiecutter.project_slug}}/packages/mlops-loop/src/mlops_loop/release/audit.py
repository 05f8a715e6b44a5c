"""Audit: what was promoted, refused or rolled back, when, by whom and why; append-only.

Every line holds the hash of the one before it, so that none can be changed, removed or put in
between unseen. Promotions also agree by it: of two that would add the same line, the database
accepts one.
"""

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import sqlalchemy as sa
from pydantic import BaseModel, JsonValue
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mlops_loop.base.errors import Failure, Refusal, redacted
from mlops_loop.prediction_log.connection import connect

# The events after which another version is champion.
MOVES = ("promoted", "rolled back", "returned", "restored")
MEND = "restore that database from a backup, or begin anew under another MLFLOW_EXPERIMENT_NAME"


class Overtaken(Failure):
    """Another process has added a line that changes what this one builds on."""


LINES = sa.Table(
    "audit",
    sa.MetaData(),
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, ...
    sa.Column("line", sa.Text, nullable=False),  # JSON
    sa.Column("sha256", sa.String(64), nullable=False),  # of the line
)
# The database itself refuses changes; who may drop a trigger is still found out by the hashes.
TAKEN = "WHEN EXISTS (SELECT 1 FROM audit WHERE model = NEW.model AND number = NEW.number)"
FORBID = "BEFORE {0} ON audit {1} BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
for dialect, statement in (
    ("sqlite", f"CREATE TRIGGER IF NOT EXISTS audit_no_update {FORBID.format('UPDATE', '')}"),
    ("sqlite", f"CREATE TRIGGER IF NOT EXISTS audit_no_delete {FORBID.format('DELETE', '')}"),
    (
        "sqlite",  # INSERT OR REPLACE would pass by the one on deletions
        f"CREATE TRIGGER IF NOT EXISTS audit_no_replacement {FORBID.format('INSERT', TAKEN)}",
    ),
    (
        "postgresql",
        "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
    ),
    (
        "postgresql",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_append_only()",
    ),
    (
        "postgresql",
        "CREATE TRIGGER audit_no_truncation BEFORE TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ),
):
    guard = sa.DDL(statement).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]
    sa.event.listen(LINES, "after_create", guard)


def open_audit(url: str) -> sa.Engine:
    """Return an engine on the prediction log's database; make the audit's table if needed."""
    try:
        engine = connect(url)
        try:
            LINES.metadata.create_all(engine)
        except SQLAlchemyError:  # another process may have made it just now
            LINES.metadata.create_all(engine)
        return engine
    except SQLAlchemyError as error:
        raise unusable(error) from None


def who() -> str:
    """Return who runs this: the person who started the workflow, or the user of this machine."""
    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"uid {os.getuid()}"


class Line(BaseModel, frozen=True):
    """A line of the log, with what several events tell; `text` is its JSON, with all they tell."""

    model: str
    number: int
    time: str  # ISO 8601, UTC
    by: str
    event: str
    version: str = ""
    before: str | None = None  # the champion of before
    reason: str = ""
    bundle_sha256: str | None = None
    git_commit: str | None = None
    text: str
    sha256: str

    def as_json(self) -> str:
        """Return the line as `audit --json` prints it: with its hash."""
        document = {**json.loads(self.text), "number": self.number, "sha256": self.sha256}
        return json.dumps(document, ensure_ascii=False)


def parsed(number: int, text: str, digest: str) -> Line:
    """Return a line with its own number and hash; refuse one that nobody can read."""
    if sha256(text.encode()).hexdigest() != digest:
        raise Refusal(f"line {number} of the audit log is not what was written: {MEND}")
    place = {"number": number, "text": text, "sha256": digest}
    return Line.model_validate(json.loads(text) | place)


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


def query(model: str) -> "sa.Select[int, str, str]":
    return sa.select(LINES.c.number, LINES.c.line, LINES.c.sha256).where(LINES.c.model == model)


def read(engine: sa.Engine, model: str) -> Iterator[Line]:
    """Yield the lines of one model's log, oldest first, with their hashes."""
    with connected(engine) as connection:
        for row in connection.execute(query(model).order_by(LINES.c.number)):
            yield parsed(*row)


def newest(engine: sa.Engine, model: str, lines: int) -> list[Line]:
    """Return the newest lines, oldest first."""
    with connected(engine) as connection:
        rows = connection.execute(query(model).order_by(LINES.c.number.desc()).limit(lines)).all()
    return [parsed(*row) for row in reversed(rows)]


@dataclass(frozen=True)
class Seen:
    """The last line of some events that a new line builds on; None if there was none."""

    line: Line | None
    events: tuple[str, ...]


def last(engine: sa.Engine, model: str, *events: str) -> Line | None:
    """Return the newest line of these events."""
    with connected(engine) as connection:
        for row in connection.execute(query(model).order_by(LINES.c.number.desc())):
            if (line := parsed(*row)).event in events:
                return line
    return None


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
    version = newer.version if newer else "none"
    raise Overtaken(f"meanwhile another process made version {version} champion: run this again")


def append(
    engine: sa.Engine,
    model: str,
    event: str,
    facts: Mapping[str, JsonValue],
    seen: Seen | None = None,
) -> Line:
    """Add a line; return it. Raises Overtaken if what it builds on, `seen`, no longer holds."""
    while True:
        end = newest(engine, model, 1)
        if seen:
            check_unchanged(engine, model, seen)
        number = end[0].number + 1 if end else 1
        entry = {
            "model": model,
            "number": number,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": who(),
            "event": event,
            **facts,
            "previous_sha256": end[0].sha256 if end else "",
        }
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        digest = sha256(line.encode()).hexdigest()
        row = {"model": model, "number": number, "line": line, "sha256": digest}
        try:
            with engine.begin() as connection:
                connection.execute(sa.insert(LINES), row)
            return parsed(number, line, digest)
        except IntegrityError:
            continue  # another process has just added a line of this number: look at it
        except SQLAlchemyError as error:
            raise unusable(error) from None


def verify(engine: sa.Engine, model: str, anchors: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the log, line by line; nothing if it is whole.

    `anchors` are hashes of lines that must be there, and the versions that they are about: without
    them nobody could see that the last lines are gone.
    """
    missing = dict(anchors)
    problems = list[str]()
    before = ""
    expected = 1
    with connected(engine) as connection:
        for number, line, digest in connection.execute(query(model).order_by(LINES.c.number)):
            if sha256(line.encode()).hexdigest() != digest:
                problems.append(f"line {number} was changed: its hash is another")
            elif number != expected:
                problems.append(f"line {expected} is missing")
            elif position(line) != (number, model, before):
                follows = f"line {number} does not follow the one before it"
                problems.append(f"{follows}: either was changed")
            missing.pop(digest, None)
            before = digest
            expected = number + 1
    problems += [f"the line about version {version} is missing" for version in missing.values()]
    return problems


def position(line: str) -> tuple[int, str, str] | None:
    """Return a line's number, model and the hash of the line before; None if it is none of ours."""
    try:
        entry = json.loads(line)
        return entry["number"], entry["model"], entry["previous_sha256"]
    except (ValueError, KeyError, TypeError):
        return None
