"""Service: what the endpoints share - the models, the log, and how rows become logged answers."""

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import Settings
from mlops_loop.prediction_log.predictions import Entry, read_predictions
from mlops_loop.prediction_log.spool import LogFull
from mlops_loop.prediction_log.writer import EntryRejected, Writer
from mlops_loop.serving import metrics
from mlops_loop.serving.hot_reload import Follower
from mlops_loop.serving.loaded_model import Served
from mlops_loop.serving.request_schema import Invalid, Rows

KEPT = "BUNDLE_KEPT"  # in the environment of processes that `serve --workers` starts: what is served now
Read = Callable[[Served], Rows]
CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"  # variants
SECONDS = 30  # that an answer may wait for the log
AGAIN = {"Retry-After": "5"}
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
LOGGER = logging.getLogger("uvicorn.error")


class Answered(NamedTuple):
    """What is answered and logged: the model's version, and for each row its id and answer."""

    version: str
    ids: list[str]
    outputs: list[Any]


class Service:
    def __init__(self, settings: Settings) -> None:
        secret, folder = settings.pii_key.get_secret_value().encode(), Path(settings.bundle)
        self.settings = settings
        kept = Path(os.environ[KEPT]) if KEPT in os.environ else None
        try:
            self.champion = Follower(folder, secret)
        except Failure:
            if kept is None:
                raise
            self.champion = Follower(kept, secret)
            self.champion.folder, self.champion.seen = folder, {}
        self.champion.kept = kept
        self.challenger = Follower(Path(settings.challenger), secret, self.champion)
        spool = Path(settings.prediction_spool)
        self.writer = Writer(
            settings.prediction_log_url, spool, settings.prediction_spool_mb * 2**20
        )

    @property
    def model(self) -> Served:
        """The champion, of this moment: a request asks once, so that it sees one model."""
        model = self.champion.model
        assert model is not None  # noqa: S101 - without one there is no service
        return model

    @property
    def followers(self) -> dict[str, Follower]:
        """The followers by variant; the challenger is looked after only if it gets traffic."""
        variant = SHADOW if self.settings.share is None else CANARY
        return {CHAMPION: self.champion} | (
            {variant: self.challenger} if self.settings.traffic else {}
        )

    @property
    def ready(self) -> bool:
        return not self.writer.full

    def choose(self, body: bytes) -> tuple[Served, str]:
        """Return the model for a request, and its variant: the same for the same request."""
        share, challenger = self.settings.share, self.challenger.model
        if share and challenger:
            place = int.from_bytes(blake2b(body, digest_size=8).digest(), "big") / 2**64
            if place < share:
                return challenger, CANARY
        return self.model, CHAMPION

    def score(
        self,
        rows: Rows,
        model: Served,
        variant: str,
        key: str | None,
        prefix: str,
        paired: str | None = None,
    ) -> tuple[Entry, Answered]:
        """Score rows; return what the log must have before the answer leaves, and the answer."""
        started, now = time.perf_counter(), datetime.now(UTC)
        outputs, scores = model.score(rows)
        milliseconds = (time.perf_counter() - started) * 1000
        metrics.predicted(variant, model.version, outputs, scores, model.bundle.manifest)
        logged = model.reader.dump(rows.rows, outputs)
        entry = Entry(prefix, now, key, model.version, variant, paired, milliseconds, logged)
        return entry, Answered(
            model.version, [f"{prefix}{place:04x}" for place in range(len(outputs))], outputs
        )

    async def store(self, entry: Entry) -> None:
        """Return when the entry is durable; raise a 503 if it cannot be."""
        try:
            async with asyncio.timeout(SECONDS):
                await self.writer.write(entry)
        except (LogFull, EntryRejected, TimeoutError):
            raise HTTPException(503, "the prediction log takes no more; try again", AGAIN) from None

    def begin(
        self,
        body: bytes,
        read: Read,
        key: str | None,
        again: str | None,
        version: str | None = None,
    ) -> tuple[Entry, Answered, BackgroundTask | None]:
        """Score a request; return what must be stored, the answer, and what is to be done after it has left.

        `read` gives the rows as a model takes them. `again` is the Idempotency-Key, if there is one; a client
        that names a `version` gets no other.
        """
        model, variant = self.choose(body)
        if version is not None:
            model, variant = self.model, CHAMPION
            if model.version != version:
                raise HTTPException(404, "this version is not served")
        prefix = new_prefix() if again is None else same_prefix(again, key, body)
        entry, answered = self.score(read(model), model, variant, key, prefix)
        if self.settings.traffic != "shadow":
            return entry, answered, None
        beside = new_prefix() if again is None else sha256(prefix.encode()).hexdigest()[:28]
        return entry, answered, BackgroundTask(self.shadow, read, key, prefix, beside)

    async def finish(self, entry: Entry, again: str | None) -> Answered | None:
        """Return when the entry is durable; for a request that was sent before, what was answered then.

        While the log is away, nobody can look that up: the answer may be another version's.
        """
        await self.store(entry)
        if again is None or not self.writer.database.available:
            return None
        try:
            found = await asyncio.to_thread(read_predictions, self.writer.engine, entry.prefix)
        except SQLAlchemyError:
            return None
        if not found:
            return None
        ids = [row.id for row in found]
        return Answered(found[0].model_version, ids, [row.output for row in found])

    async def shadow(self, read: Read, key: str | None, answered: str, prefix: str) -> None:
        """Let the challenger score a request that was answered; nobody waits for it."""
        if (model := self.challenger.model) is None:
            return
        try:
            entry, _ = self.score(read(model), model, SHADOW, key, prefix, answered)
            await self.store(entry)
        except (Invalid, HTTPException) as error:  # the log may be full
            metrics.ERRORS.labels("shadow").inc()
            LOGGER.warning("the challenger did not score a request in the shadow: %s", error)


def new_prefix() -> str:
    """Return the 28 hex digits of a request, which its row numbers follow. They grow with time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def same_prefix(again: str, key: str | None, body: bytes) -> str:
    """Return the digits of a request that may be sent again: they are the same each time."""
    if not IDEMPOTENCY_KEY.fullmatch(again):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    return sha256(f"{key or ''}\n{again}\n".encode() + body).hexdigest()[:28]
