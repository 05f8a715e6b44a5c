"""Hot reload: load a new bundle beside the served one, and switch to it between two requests."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mlops_loop.base.errors import Refusal
from mlops_loop.contract.compatibility import BREAK, TABLE, changes
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.derived import Columns, Floats
from mlops_loop.scoring.scorer import Scorer, open_scorer
from mlops_loop.serving.request_schema import Reader, Rows, invalid_value

LOGGER = logging.getLogger("uvicorn.error")
Snapshot = dict[Path, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A bundle made ready to answer."""

    bundle: Bundle
    reader: Reader
    scorer: Scorer

    @property
    def version(self) -> str:
        return self.bundle.version

    def score(self, rows: Rows) -> tuple[list[msgspec.Struct], Floats]:
        """Return each row's answer, and the scores. Raises Invalid for what is derived of a row."""
        columns: Columns = rows.columns
        if derived := self.scorer.derive(columns):
            for row, name, reason in self.scorer.derive.breaches(derived)[:1]:
                raise invalid_value(row, name, f"is derived from this row, and {reason}")
            columns = {**columns, **derived}
        scores = self.scorer.scores(columns)
        return self.scorer.answers(scores), scores


def load(folder: Path, secret: bytes) -> LoadedModel:
    """Return the bundle in a folder, ready and warm: it has answered its example."""
    bundle = open_bundle(folder)
    model = LoadedModel(bundle, Reader(bundle.schema, secret), open_scorer(bundle))
    try:
        model.score(model.reader.from_records([bundle.manifest.example]))
    except Exception as error:  # of as many kinds as there are engines
        reason = str(error).partition("\n")[0]
        raise Refusal(f"the bundle in {folder} does not answer its own example: {reason}") from None
    return model


def snapshot(folder: Path) -> Snapshot:
    """Return inode, size and time of each file in the folder."""
    try:
        facts = {path: path.stat() for path in folder.rglob("*")}
    except OSError:  # it is being replaced, or out of reach
        return {}
    return {path: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


class Follower:
    """The model of a folder: `model` is what is served now, `refused` why a newer one is not.

    A champion's challenger need not exist, and must take and answer what the champion does.
    """

    def __init__(self, folder: Path, secret: bytes, champion: "Follower | None" = None) -> None:
        self.folder = folder
        self.secret = secret
        self.champion = champion
        self.refused = ""
        self.swaps = 0
        self.since = time.time()
        # What was in the folder when it was checked, and the champion then.
        self.seen: tuple[Snapshot, LoadedModel | None] | None
        self.seen = None if champion else (snapshot(folder), None)
        self.model = None if champion else load(folder, secret)
        self.versions = {self.model.version} if self.model else set()  # all so far, for the metrics

    def step(self) -> None:
        """Check once: a new bundle is loaded and warmed, and then takes over."""
        now = snapshot(self.folder), self.champion.model if self.champion else None
        if now == self.seen:
            return
        model = None
        problem = ""
        try:
            model = self.load_if_fit(*now)
        except Exception as error:  # of whatever kind: it must not end the following
            problem = str(error).partition("\n")[0]
        if snapshot(self.folder) != now[0]:
            return  # replaced meanwhile: what was read may be of two bundles
        self.seen = now
        if self.champion and not model:
            self.model = None  # an older one may not go with the champion either
        if problem and problem != self.refused:
            served = f"version {self.model.version}" if self.model else "none"
            text = "%s is served on, the new bundle in %s cannot be: %s"
            LOGGER.error(text, served, self.folder, problem)
        elif model and model.bundle != (self.model and self.model.bundle):
            self.take_over(model)
        self.refused = problem

    def load_if_fit(self, files: Snapshot, champion: LoadedModel | None) -> LoadedModel | None:
        """Return the model in the folder, None if there is no challenger; raise if it is unfit."""
        if champion and not files:
            return None
        new = load(self.folder, self.secret)
        if champion and (found := breaks(champion.bundle.schema, new.bundle.schema)):
            raise Refusal(f"it differs from the champion in {found[0]}")
        old = None if champion else self.model
        if old and (found := breaking_changes(old.bundle.schema, new.bundle.schema)):
            raise Refusal(f"it answers another question ({found[0]}): start the server anew")
        return new

    def take_over(self, model: LoadedModel) -> None:
        self.model = model
        self.swaps += 1
        self.since = time.time()
        self.versions.add(model.version)
        LOGGER.info("version %s in %s is served now", model.version, self.folder)


def breaks(old: Schema, new: Schema) -> list[str]:
    return [change.where for change in changes(old, new) if change.kind == BREAK]


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return the places where the answers of two contracts mean something else."""
    places = (*TABLE, f"columns.{old.target}", f"columns.{old.target}.")
    return [where for where in breaks(old, new) if where.startswith(places)]
