"""The service: models, prediction log, and how rows become logged answers."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.predictions import Entry, read_predictions, to_lines
from mlops_loop.prediction_log.writing.spool import NotLogged
from mlops_loop.prediction_log.writing.writer import Writer
from mlops_loop.scoring.derived import DeriveError
from mlops_loop.scoring.predictions import Output
from mlops_loop.serving import metrics
from mlops_loop.serving.hot_reload import Follower
from mlops_loop.serving.ids import new_prefix, request_prefix, row_ids
from mlops_loop.serving.loaded_model import LoadedModel
from mlops_loop.serving.request_schema import Rows

# In the environment of processes that `serve --workers` starts: a copy of what is served now.
LAST_GOOD_BUNDLE = "BUNDLE_KEPT"
ReadRows = Callable[[LoadedModel], Rows]
# Variants.
CHAMPION = "champion"
CANARY = "canary"
SHADOW = "shadow"
LOG_SECONDS = 30  # that an answer may wait for the log
RETRY_AFTER = {"Retry-After": "5"}
LOGGER = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Answer:
    """What is answered and logged: for each row its id and output."""

    model_version: str
    ids: list[str]
    outputs: Sequence[Output]  # structs, or what the log has of them


class Service:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        secret = settings.pii_key.get_secret_value().encode()
        kept = Path(os.environ[LAST_GOOD_BUNDLE]) if LAST_GOOD_BUNDLE in os.environ else None
        self.champion = Follower(Path(settings.bundle), secret, kept)
        self.challenger = Follower(Path(settings.challenger), secret, champion=self.champion)
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

    def follow(self) -> None:
        """Take over new bundles."""
        for follower in self.followers.values():
            follower.step()

    def set_gauges(self) -> None:
        metrics.set_state(self.followers, self.writer)

    def check_ready(self) -> None:
        """Raise HTTPException 503 if predictions are not answered."""
        if self.writer.full:
            raise HTTPException(503, "the prediction log takes no more", RETRY_AFTER)

    def choose(self, body: bytes) -> tuple[LoadedModel, str]:
        """Return the model for a request, and its variant: the same for the same request."""
        share = self.settings.share
        challenger = self.challenger.model
        if share and challenger:
            place = int.from_bytes(blake2b(body, digest_size=8).digest(), "big") / 2**64
            if place < share:
                return challenger, CANARY
        return self.model, CHAMPION

    async def predict(
        self, request: Request, read: ReadRows, *, champion: bool = False
    ) -> tuple[Answer, BackgroundTask | None]:
        """Return the answer to a request, which is in the log, and what runs after it was sent.

        `read` returns the rows as a model takes them. With `champion` no other model answers.
        """
        body: bytes = request.state.body
        key: str | None = request.state.key
        idempotency_key = request.headers.get("idempotency-key")
        model, variant = (self.model, CHAMPION) if champion else self.choose(body)
        prefix = request_prefix(idempotency_key, key, body)
        entry, answer = self.score(read(model), model, variant, key, prefix)
        await self.store(entry)
        shadow = None
        if self.settings.traffic == "shadow":
            shadow = BackgroundTask(self.score_in_shadow, read, entry, idempotency_key is not None)
        if idempotency_key is not None:
            answer = await self.first_answer(prefix) or answer
        return answer, shadow

    def score(
        self,
        rows: Rows,
        model: LoadedModel,
        variant: str,
        key: str | None,
        prefix: str,
        paired: str | None = None,
    ) -> tuple[Entry, Answer]:
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
        logged = to_lines(outputs, model.reader.loggable(rows.rows))
        entry = Entry(prefix, now, key, model.version, variant, paired, milliseconds, logged)
        return entry, Answer(model.version, row_ids(prefix, len(outputs)), outputs)

    async def store(self, entry: Entry) -> None:
        """Return when the entry is durable. Raises HTTPException 503 if it cannot be."""
        try:
            async with asyncio.timeout(LOG_SECONDS):
                await self.writer.write(entry)
        except (NotLogged, TimeoutError):
            reason = "the prediction log takes no more; try again"
            raise HTTPException(503, reason, RETRY_AFTER) from None

    async def first_answer(self, prefix: str) -> Answer | None:
        """Return what a repeated request was answered at first.

        While the log is unreachable that cannot be looked up: its answer may be another version's.
        """
        if not self.writer.database.available:
            return None
        try:
            rows = await asyncio.to_thread(read_predictions, self.writer.engine, prefix)
        except SQLAlchemyError:
            return None
        if not rows:
            return None
        return Answer(rows[0].model_version, [row.id for row in rows], [row.output for row in rows])

    async def score_in_shadow(self, read: ReadRows, answered: Entry, repeatable: bool) -> None:
        """Let the challenger score a request that was answered; its client does not wait."""
        model = self.challenger.model
        if model is None:
            return
        prefix = sha256(answered.prefix.encode()).hexdigest()[:28] if repeatable else new_prefix()
        key = answered.key_name
        try:
            entry, _ = self.score(read(model), model, SHADOW, key, prefix, answered.prefix)
            await self.store(entry)
        except HTTPException as error:  # the log may be full
            metrics.ERRORS.labels("shadow").inc()
            LOGGER.warning("the challenger did not score a request in the shadow: %s", error)
