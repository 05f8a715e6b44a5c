"""Hot reload: load a new bundle beside the served one, and switch to it between two requests."""

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.contract.compatibility import BREAK, TABLE, changes
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.bundle import PromotionFacts
from mlops_loop.serving.loaded_model import LoadedModel, load

LOGGER = logging.getLogger("uvicorn.error")
Snapshot = dict[str, tuple[int, ...]]


def snapshot(folder: Path) -> Snapshot:
    """Return inode, size and time of each file in the folder; nothing if it does not exist."""
    try:
        facts = {str(path): path.stat() for path in folder.rglob("*")}
    except OSError:  # it is being replaced, or out of reach
        return {}
    return {path: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


class Follower:
    """The model of a folder: `model` is what is served now, `refused` why a newer one is not.

    With `champion`, the follower of another folder, it is that one's challenger: it need not exist,
    and must take and answer what the champion does. In `kept` there is a copy of what is served,
    for a process that starts later than others and finds a bundle that cannot be.
    """

    def __init__(
        self,
        folder: Path,
        secret: bytes,
        kept: Path | None = None,
        champion: "Follower | None" = None,
    ) -> None:
        self.folder = folder
        self.secret = secret
        self.kept = kept
        self.champion = champion
        self.refused = ""
        self.swaps = 0
        self.since = time.time()
        self.seen: Snapshot | None = None  # when it was checked
        self.against: Schema | None = None  # the contract of the champion then
        self.model: LoadedModel | None = None
        self.versions: set[str] = set()  # all that were served, for the metrics
        if not champion:
            self.begin()

    def begin(self) -> None:
        seen = snapshot(self.folder)
        try:
            self.model = load(self.folder, self.secret)
            self.seen = seen
        except Failure:
            if self.kept is None:
                raise
            self.model = load(self.kept, self.secret)
        self.versions.add(self.model.version)

    def step(self) -> None:
        """Check once: a new bundle is loaded and warmed, and then takes over."""
        other = self.champion.model.bundle.schema if self.champion and self.champion.model else None
        now = snapshot(self.folder)
        if now == self.seen and other is self.against:
            return
        model = None
        problem = ""
        if now or not self.champion:
            try:
                model = load(self.folder, self.secret)
                problem = reason_against(self.model, model, other)
            except Exception as error:  # of whatever kind: it must not end the following
                problem = str(error).partition("\n")[0]
            if snapshot(self.folder) != now:
                return  # replaced meanwhile: what was read may be of two bundles
        self.seen = now
        self.against = other
        if self.champion and (problem or not model):
            self.model = None  # an older one may not go with the champion either
        if problem and problem != self.refused:
            served = (
                f"version {self.model.version} is served on" if self.model else "none is served"
            )
            LOGGER.error("%s, the new bundle in %s cannot be: %s", served, self.folder, problem)
        elif model and not problem and identity(model) != identity(self.model):
            self.take_over(model)
        self.refused = problem

    def take_over(self, model: LoadedModel) -> None:
        self.model = model
        self.swaps += 1
        self.since = time.time()
        self.versions.add(model.version)
        LOGGER.info("version %s in %s is served now", model.version, self.folder)
        if self.kept:
            # Another process may do it, too.
            with suppress(OSError), files.writing(self.kept) as tmp_path:
                shutil.copytree(self.folder, tmp_path)
                if snapshot(self.folder) != self.seen:
                    raise OSError("replaced meanwhile")


def reason_against(old: LoadedModel | None, new: LoadedModel, champion: Schema | None) -> str:
    """Return why a model must not take over, or stand beside the champion."""
    if champion:
        found = breaks(champion, new.bundle.schema)
        return f"it differs from the champion in {found[0]}" if found else ""
    found = breaking_changes(old.bundle.schema, new.bundle.schema) if old else []
    return f"it answers another question ({found[0]}): start the server anew" if found else ""


def breaks(old: Schema, new: Schema) -> list[str]:
    return [change.where for change in changes(old, new) if change.kind == BREAK]


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return the places where the answers of two contracts mean something else."""
    places = (*TABLE, f"columns.{old.target}", f"columns.{old.target}.")
    return [where for where in breaks(old, new) if where.startswith(places)]


def identity(model: LoadedModel | None) -> tuple[str, PromotionFacts] | None:
    return (model.bundle.sha256, model.bundle.promotion) if model else None
