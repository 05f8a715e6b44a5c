"""The service: models, prediction log, and how rows become logged answers."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlops_loop.base.settings import Settings
from mlops_loop.contract.values import MAX_ROWS
from mlops_loop.prediction_log.ids import derived_prefixes, new_prefix
from mlops_loop.prediction_log.predictions import Entry, read_predictions, to_lines
from mlops_loop.prediction_log.writing.spool import NotLogged
from mlops_loop.prediction_log.writing.writer import Writer
from mlops_loop.scoring.derived import DeriveError
from mlops_loop.scoring.predictions import Output
from mlops_loop.serving import metrics
from mlops_loop.serving.hot_reload import Follower, LoadedModel
from mlops_loop.serving.request_schema import Invalid, Rows

ReadRows = Callable[[LoadedModel], Rows]
# Variants.
CHAMPION = "champion"
CANARY = "canary"
SHADOW = "shadow"
LOG_SECONDS = 30  # that an answer may wait for the log
LOG_FULL = "the prediction log takes no more; try again"
RETRY_AFTER = {"Retry-After": "5"}
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
ROWS = [f"{place:04x}" for place in range(MAX_ROWS)]  # ends of the ids in a request
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
        self.champion = Follower(Path(settings.bundle), secret)
        self.challenger = Follower(Path(settings.challenger), secret, self.champion)
        # By variant; the challenger is followed only if it gets traffic.
        self.followers = {CHAMPION: self.champion}
        if settings.traffic:
            variant = SHADOW if settings.share is None else CANARY
            self.followers[variant] = self.challenger
        spool_bytes = settings.prediction_spool_mb * 2**20
        spool = Path(settings.prediction_spool)
        self.writer = Writer(settings.prediction_log_url, spool, spool_bytes)

    @property
    def model(self) -> LoadedModel:
        """The champion of this moment: a request asks once, so that it sees one model."""
        model = self.champion.model
        assert model is not None  # noqa: S101 - without one there is no service
        return model

    def refresh(self) -> None:
        """Take over new bundles, and set the gauges."""
        for follower in self.followers.values():
            follower.step()
        metrics.set_state(self.followers, self.writer)

    def check_ready(self) -> None:
        """Raise HTTPException 503 if predictions are not answered."""
        if self.writer.full:
            raise HTTPException(503, LOG_FULL, RETRY_AFTER)

    def choose(self, body: bytes) -> tuple[LoadedModel, str]:
        """Return the model for a request, and its variant: the same for the same request."""
        challenger = self.challenger.model
        if challenger and self.settings.share:
            place = int.from_bytes(blake2b(body, digest_size=8).digest(), "big") / 2**64
            if place < self.settings.share:
                return challenger, CANARY
        return self.model, CHAMPION

    async def predict(
        self, request: Request, read: ReadRows, *, champion: bool = False
    ) -> tuple[Answer, BackgroundTask | None]:
        """Return the answer to a request, which is in the log, and what runs after it was sent."""
        body: bytes = request.state.body
        key: str | None = request.state.key
        repeatable = request.headers.get("idempotency-key")
        now = datetime.now(UTC)
        prefixes = [new_prefix(now)]
        if repeatable is not None:
            prefixes = repeated_prefixes(repeatable, key, body, now)
            if found := await self.first_answer(*prefixes[1:]):
                return found, None
        model, variant = (self.model, CHAMPION) if champion else self.choose(body)
        entry, answer = self.score(read(model), model, variant, key, prefixes[0], now)
        await self.store(entry)
        shadow = None
        if self.settings.traffic == "shadow":
            shadow = BackgroundTask(self.score_in_shadow, read, entry, repeatable is not None)
        if repeatable is not None:
            answer = await self.first_answer(*prefixes) or answer
        return answer, shadow

    def score(
        self,
        rows: Rows,
        model: LoadedModel,
        variant: str,
        key: str | None,
        prefix: str,
        now: datetime,
        paired: str | None = None,
    ) -> tuple[Entry, Answer]:
        """Return answers and what is to be logged; `now` is of the day that `prefix` tells."""
        started = time.perf_counter()
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
        ids = [prefix + row for row in ROWS[: len(outputs)]]
        return entry, Answer(model.version, ids, outputs)

    async def store(self, entry: Entry) -> None:
        """Return when the entry is durable. Raises HTTPException 503 if it cannot be."""
        try:
            async with asyncio.timeout(LOG_SECONDS):
                await self.writer.write(entry)
        except (NotLogged, TimeoutError):
            raise HTTPException(503, LOG_FULL, RETRY_AFTER) from None

    async def first_answer(self, *prefixes: str) -> Answer | None:
        """Return what a repeated request was answered at first, if the log is there to tell."""
        rows: Sequence[sa.Row[tuple[object, ...]]] = []
        if self.writer.database.available:
            with suppress(SQLAlchemyError, TimeoutError):
                async with asyncio.timeout(LOG_SECONDS):
                    rows = await asyncio.to_thread(read_predictions, self.writer.engine, *prefixes)
        if not rows:
            return None
        return Answer(rows[0].model_version, [row.id for row in rows], [row.output for row in rows])

    async def score_in_shadow(self, read: ReadRows, answered: Entry, repeatable: bool) -> None:
        """Let the challenger score a request that was answered; its client does not wait."""
        model = self.challenger.model
        if model is None:
            return
        now = answered.time  # so that both are in one window, and one partition
        prefix = new_prefix(now)
        if repeatable:
            prefix = derived_prefixes(answered.prefix.encode(), now)[0]
        try:
            key = answered.key_name
            entry, _ = self.score(read(model), model, SHADOW, key, prefix, now, answered.prefix)
            await self.store(entry)
        except HTTPException as error:  # the log may be full
            metrics.ERRORS.labels("shadow").inc()
            LOGGER.warning("the challenger did not score a request in the shadow: %s", error)


def repeated_prefixes(
    idempotency_key: str, key: str | None, body: bytes, now: datetime
) -> list[str]:
    """Return what a request that is sent again gets today, and what it got on the days before."""
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    return derived_prefixes(f"{key or ''}\n{idempotency_key}\n".encode() + body, now)
