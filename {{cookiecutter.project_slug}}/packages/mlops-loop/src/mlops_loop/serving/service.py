"""The service: models, prediction log, and how rows become logged answers."""

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.predictions import Entry, read_predictions
from mlops_loop.prediction_log.writing.spool import LogFull
from mlops_loop.prediction_log.writing.writer import EntryRejected, Writer
from mlops_loop.scoring.derived import DeriveError
from mlops_loop.scoring.predictions import Output
from mlops_loop.serving import metrics
from mlops_loop.serving.hot_reload import Follower
from mlops_loop.serving.loaded_model import LoadedModel
from mlops_loop.serving.request_schema import Invalid, Rows

# In the environment of processes that `serve --workers` starts: a copy of what is served now.
LAST_GOOD_BUNDLE = "BUNDLE_KEPT"
ReadRows = Callable[[LoadedModel], Rows]
# Variants.
CHAMPION = "champion"
CANARY = "canary"
SHADOW = "shadow"
LOG_SECONDS = 30  # that an answer may wait for the log
RETRY_AFTER = {"Retry-After": "5"}
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
LOGGER = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Answer:
    """What is answered and logged: for each row its id and output."""

    model_version: str
    ids: list[str]
    outputs: Sequence[Output]  # structs, or what the log has of them


@dataclass(frozen=True)
class Scored:
    """A scored request: what must be logged, the answer, and what runs after it was sent."""

    entry: Entry
    answer: Answer
    shadow: BackgroundTask | None = None


class Service:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        secret = settings.pii_key.get_secret_value().encode()
        self.champion = follow_champion(Path(settings.bundle), secret)
        self.challenger = Follower(Path(settings.challenger), secret, self.champion)
        spool_bytes = settings.prediction_spool_mb * 2**20
        spool = Path(settings.prediction_spool)
        self.writer = Writer(settings.prediction_log_url, spool, spool_bytes)

    @property
    def model(self) -> LoadedModel:
        """The champion of this moment: a request asks once, so that it sees one model."""
        model = self.champion.model
        assert model is not None  # noqa: S101 - without one there is no service
        return model

    @property
    def followers(self) -> dict[str, Follower]:
        """The followers by variant; the challenger is followed only if it gets traffic."""
        if not self.settings.traffic:
            return {CHAMPION: self.champion}
        variant = SHADOW if self.settings.share is None else CANARY
        return {CHAMPION: self.champion, variant: self.challenger}

    @property
    def ready(self) -> bool:
        return not self.writer.full

    def choose(self, body: bytes) -> tuple[LoadedModel, str]:
        """Return the model for a request, and its variant: the same for the same request."""
        share = self.settings.share
        challenger = self.challenger.model
        if share and challenger:
            place = int.from_bytes(blake2b(body, digest_size=8).digest(), "big") / 2**64
            if place < share:
                return challenger, CANARY
        return self.model, CHAMPION

    def score_request(
        self,
        body: bytes,
        read: ReadRows,
        key: str | None,
        idempotency_key: str | None,
        version: str | None = None,
    ) -> Scored:
        """Score a request. `read` returns the rows as a model takes them.

        A client that names a `version` gets no other.
        """
        if version is None:
            model, variant = self.choose(body)
        else:
            model = self.model
            variant = CHAMPION
            if model.version != version:
                raise HTTPException(404, "this version is not served")
        prefix = request_prefix(idempotency_key, key, body)
        scored = self.score(read(model), model, variant, key, prefix)
        if self.settings.traffic != "shadow":
            return scored
        shadow_prefix = new_prefix()
        if idempotency_key is not None:
            shadow_prefix = sha256(prefix.encode()).hexdigest()[:28]
        task = BackgroundTask(self.score_in_shadow, read, key, prefix, shadow_prefix)
        return Scored(scored.entry, scored.answer, task)

    def score(
        self,
        rows: Rows,
        model: LoadedModel,
        variant: str,
        key: str | None,
        prefix: str,
        paired: str | None = None,
    ) -> Scored:
        started = time.perf_counter()
        now = datetime.now(UTC)
        try:
            outputs, scores = model.score(rows)
        except DeriveError as error:
            metrics.DERIVE_ERRORS.labels(variant).inc()
            LOGGER.error("version %s: %s", model.version, error)
            reason = "the features cannot be derived: the server's log says why"
            raise HTTPException(500, reason) from None
        milliseconds = (time.perf_counter() - started) * 1000
        metrics.count_predictions(variant, model.bundle, outputs, scores)
        logged = model.reader.dump(rows.rows, outputs)
        entry = Entry(prefix, now, key, model.version, variant, paired, milliseconds, logged)
        ids = [f"{prefix}{place:04x}" for place in range(len(outputs))]
        return Scored(entry, Answer(model.version, ids, outputs))

    async def make_durable(self, entry: Entry, idempotency_key: str | None) -> Answer | None:
        """Return when the entry is durable: for a repeated request, with its first answer.

        While the log is unreachable that cannot be looked up: the answer may be another version's.
        """
        await self.store(entry)
        if idempotency_key is None or not self.writer.database.available:
            return None
        try:
            rows = await asyncio.to_thread(read_predictions, self.writer.engine, entry.prefix)
        except SQLAlchemyError:
            return None
        if not rows:
            return None
        return Answer(rows[0].model_version, [row.id for row in rows], [row.output for row in rows])

    async def store(self, entry: Entry) -> None:
        """Return when the entry is durable. Raises HTTPException 503 if it cannot be."""
        try:
            async with asyncio.timeout(LOG_SECONDS):
                await self.writer.write(entry)
        except (LogFull, EntryRejected, TimeoutError):
            reason = "the prediction log takes no more; try again"
            raise HTTPException(503, reason, RETRY_AFTER) from None

    async def score_in_shadow(
        self, read: ReadRows, key: str | None, answered: str, prefix: str
    ) -> None:
        """Let the challenger score a request that was answered; its client does not wait."""
        model = self.challenger.model
        if model is None:
            return
        try:
            await self.store(self.score(read(model), model, SHADOW, key, prefix, answered).entry)
        except (Invalid, HTTPException) as error:  # the log may be full
            metrics.ERRORS.labels("shadow").inc()
            LOGGER.warning("the challenger did not score a request in the shadow: %s", error)


def follow_champion(folder: Path, secret: bytes) -> Follower:
    """Return the follower of the served bundle.

    A process that starts later than others, and finds a bundle that cannot be served, begins with
    the copy of what they serve.
    """
    kept = Path(os.environ[LAST_GOOD_BUNDLE]) if LAST_GOOD_BUNDLE in os.environ else None
    try:
        champion = Follower(folder, secret)
    except Failure:
        if kept is None:
            raise
        champion = Follower(kept, secret)
        champion.folder = folder
        champion.seen = {}
    champion.kept = kept
    return champion


def request_prefix(idempotency_key: str | None, key: str | None, body: bytes) -> str:
    """Return the first 28 hex digits of a request's ids: the same for a repeated request."""
    if idempotency_key is None:
        return new_prefix()
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    return sha256(f"{key or ''}\n{idempotency_key}\n".encode() + body).hexdigest()[:28]


def new_prefix() -> str:
    """Return 28 hex digits that grow with time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"
