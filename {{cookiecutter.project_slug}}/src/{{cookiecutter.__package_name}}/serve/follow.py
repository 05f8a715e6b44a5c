"""Follow: load a new bundle beside the one that is served, and go over to it between two requests."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..evolve import BREAK, TABLE, changes
from ..schema import Schema
from .served import Served, load

PAUSE = 0.5  # seconds between two looks at a bundle's folder
LOGGER = logging.getLogger("uvicorn.error")


def look(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells that a file in the folder was changed or replaced; nothing if it is not there."""
    try:
        facts = {str(path): path.stat() for path in folder.rglob("*")}
    except FileNotFoundError:  # it is being replaced
        return {}
    return {path: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


class Follower:
    """The model of a folder: `model` is what is served now, `refused` why a newer one is not.

    Without a model to begin with, there need not be any: none is served when the folder is gone.
    """

    def __init__(self, folder: Path, model: Served | None, secret: bytes) -> None:
        self.folder, self.model, self.secret, self.optional = folder, model, secret, model is None
        self.refused, self.swaps, self.since = "", 0, time.time()
        self.versions = {model.version} if model else set()  # all that were served, for the metrics
        self.seen = {} if model is None else look(folder)

    def step(self) -> None:
        """Look once: a new bundle is loaded and warmed, and then takes over."""
        if (now := look(self.folder)) == self.seen:
            return
        model, problem = None, ""
        if self.optional and not now:
            self.seen, self.model, self.refused = now, None, ""
            return
        try:
            model = load(self.folder, self.secret)
            if self.model and (broken := differ(self.model.bundle.schema, model.bundle.schema)):
                problem = f"it answers another question ({broken[0]}): start the server anew"
        except Exception as error:  # of whatever kind: it must not end the following
            problem = str(error).partition("\n")[0]
        if look(self.folder) != now:
            return  # replaced meanwhile: what was read may be of two bundles
        self.seen = now
        if problem and problem != self.refused:
            served = f"version {self.model.version} is served on" if self.model else "none is served"
            LOGGER.error("%s, the new bundle in %s cannot be: %s", served, self.folder, problem)
        elif model and not problem and not same(model, self.model):
            self.model = model
            self.swaps, self.since = self.swaps + 1, time.time()
            self.versions.add(model.version)
            LOGGER.info("version %s in %s is served now", model.version, self.folder)
        self.refused = problem


def differ(old: Schema, new: Schema) -> list[str]:
    """Return the places where the answers of two contracts mean something else."""
    places = (*TABLE, f"columns.{old.target}", f"columns.{old.target}.")
    found = [change.where for change in changes(old, new) if change.kind == BREAK]
    return [where for where in found if where.startswith(places)]


def same(one: Served, other: Served | None) -> bool:
    mine = one.bundle.sha256, one.bundle.promotion
    return other is not None and mine == (other.bundle.sha256, other.bundle.promotion)


def watch(followers: list[Follower]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Look again and again in a thread; return the functions that make it look now, and end."""
    now, ended = threading.Event(), threading.Event()

    def run() -> None:
        while not ended.is_set():
            now.wait(PAUSE)
            now.clear()
            for follower in followers:
                follower.step()

    thread = threading.Thread(target=run, daemon=True, name="follow")
    thread.start()

    def end() -> None:
        ended.set()
        now.set()
        thread.join()

    return now.set, end
