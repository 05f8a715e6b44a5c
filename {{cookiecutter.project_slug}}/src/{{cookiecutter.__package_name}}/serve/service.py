"""Service: what the endpoints share - the models, the log, and how rows become logged answers."""

import asyncio
import logging
import re
import secrets
import time
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from ..settings import Settings
from . import log, metrics
from .follow import Follower
from .log import Entry
from .rows import Invalid, Rows
from .served import Served, load
from .spool import Full
from .writer import Refused, Writer

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
        secret, folder = settings.sensitive_key.get_secret_value().encode(), Path(settings.bundle)
        self.settings = settings
        self.champion = Follower(folder, load(folder, secret), secret)
        self.challenger = Follower(Path(settings.challenger), None, secret)
        spool = Path(settings.prediction_spool)
        self.writer = Writer(settings.prediction_log_url, spool, settings.prediction_spool_mb * 2**20)

    @property
    def model(self) -> Served:
        """The champion, of this moment: a request asks once, so that it sees one model."""
        if self.champion.model is None:
            raise HTTPException(503, "no model is served", AGAIN)
        return self.champion.model

    @property
    def followers(self) -> dict[str, Follower]:
        """The followers by variant; the challenger is looked after only if it gets traffic."""
        variant = SHADOW if self.settings.share is None else CANARY
        return {CHAMPION: self.champion} | ({variant: self.challenger} if self.settings.traffic else {})

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
        except (Full, Refused, TimeoutError):
            raise HTTPException(503, "the prediction log takes no more; try again", AGAIN) from None

    async def stored(self, prefix: str) -> Answered | None:
        """Return what the log has of a request; None if it has nothing, or is away."""
        try:
            found = await asyncio.to_thread(log.answers, self.writer.engine, prefix)
        except SQLAlchemyError:
            return None
        if not found:
            return None
        return Answered(
            found[0]["model_version"], [row["id"] for row in found], [row["output"] for row in found]
        )

    async def shadow(self, body: bytes, key: str | None, answered: str) -> None:
        """Let the challenger score a request that was answered; nobody waits for it."""
        if (model := self.challenger.model) is None:
            return
        try:
            rows = model.reader.read(body)
            entry, _ = self.score(rows, model, SHADOW, key, new_prefix(), answered)
            await self.store(entry)
        except (Invalid, HTTPException) as error:  # its contract may be another one, the log full
            metrics.ERRORS.labels("shadow").inc()
            LOGGER.warning("the challenger did not score a request in the shadow: %s", error)


def new_prefix() -> str:
    """Return the 28 hex digits of a request, which its row numbers follow. They grow with time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def same_prefix(idempotency_key: str, key: str | None, body: bytes) -> str:
    """Return the digits of a request that may be sent again: they are the same each time."""
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Invalid(400, "Idempotency-Key must be 1 to 200 printable ASCII characters")
    told = f"{key or ''}\n{idempotency_key}\n".encode() + body
    return sha256(told).hexdigest()[:28]
