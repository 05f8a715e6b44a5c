"""Hot reload: load a new bundle beside the served one, and switch to it between two requests."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.contract.compatibility import BREAK, TABLE, changes
from mlops_loop.contract.schema import Schema
from mlops_loop.serving.loaded_model import LoadedModel, load

PAUSE = 0.5  # seconds between two checks of a bundle's folder
LOGGER = logging.getLogger("uvicorn.error")


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return inode, size and time of each file in the folder; nothing if it does not exist."""
    try:
        facts = {str(path): path.stat() for path in folder.rglob("*")}
    except OSError:  # it is being replaced, or out of reach
        return {}
    return {path: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


class Follower:
    """The model of a folder: `model` is what is served now, `refused` why a newer one is not.

    With `champion`, the follower of another folder, it is that one's challenger: it need not exist,
    and must take and answer what the champion does.
    """

    def __init__(self, folder: Path, secret: bytes, champion: "Follower | None" = None) -> None:
        self.folder = folder
        self.secret = secret
        self.champion = champion
        self.refused = ""
        self.swaps = 0
        self.since = time.time()
        self.seen = snapshot(folder)
        self.against: Schema | None = None  # the champion's contract, when it was checked
        self.model = None if champion else load(folder, secret)
        self.kept: Path | None = None  # where a copy of what is served is kept
        self.versions = (
            {self.model.version} if self.model else set()
        )  # all that were served, for the metrics

    def step(self) -> None:
        """Check once: a new bundle is loaded and warmed, and then takes over."""
        other = self.champion.model.bundle.schema if self.champion and self.champion.model else None
        now = snapshot(self.folder)
        if now == self.seen and other is self.against:
            return
        model = None
        problem = ""
        if self.champion and not now:
            self.seen = now
            self.against = other
            self.model = None
            self.refused = ""
            return
        try:
            model = load(self.folder, self.secret)
            problem = reason_against(self.model, model, other)
        except Exception as error:  # of whatever kind: it must not end the following
            problem = str(error).partition("\n")[0]
        if snapshot(self.folder) != now:
            return  # replaced meanwhile: what was read may be of two bundles
        self.seen = now
        self.against = other
        if self.champion and problem:
            self.model = None  # an older one may not go with the champion either
        if problem and problem != self.refused:
            served = (
                f"version {self.model.version} is served on" if self.model else "none is served"
            )
            LOGGER.error("%s, the new bundle in %s cannot be: %s", served, self.folder, problem)
        elif model and not problem and not is_same_bundle(model, self.model):
            self.model = model
            self.swaps += 1
            self.since = time.time()
            self.versions.add(model.version)
            self.keep(now)
            LOGGER.info("version %s in %s is served now", model.version, self.folder)
        self.refused = problem

    def keep(self, now: dict[str, tuple[int, ...]]) -> None:
        """Copy what is served, for a process that starts later and finds a broken bundle."""
        if self.kept is None:
            return
        with (
            suppress(OSError),
            files.writing(self.kept) as tmp_path,
        ):  # another process may do it, too
            shutil.copytree(self.folder, tmp_path)
            if snapshot(self.folder) != now:
                raise OSError("replaced meanwhile")


def reason_against(old: LoadedModel | None, new: LoadedModel, champion: Schema | None) -> str:
    """Return why a model must not take over, or stand beside the champion."""
    if champion:
        found = [
            change.where for change in changes(champion, new.bundle.schema) if change.kind == BREAK
        ]
        return f"it differs from the champion in {found[0]}" if found else ""
    broken = breaking_changes(old.bundle.schema, new.bundle.schema) if old else []
    return f"it answers another question ({broken[0]}): start the server anew" if broken else ""


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return the places where the answers of two contracts mean something else."""
    places = (*TABLE, f"columns.{old.target}", f"columns.{old.target}.")
    found = [change.where for change in changes(old, new) if change.kind == BREAK]
    return [where for where in found if where.startswith(places)]


def is_same_bundle(one: LoadedModel, other: LoadedModel | None) -> bool:
    mine = one.bundle.sha256, one.bundle.promotion
    return other is not None and mine == (other.bundle.sha256, other.bundle.promotion)


def watch(followers: list[Follower]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Check repeatedly in a thread; return the functions that make it check now, and stop."""
    now = threading.Event()
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            now.wait(PAUSE)
            now.clear()
            for follower in followers:
                try:
                    follower.step()
                except Exception:  # of whatever kind: the next look may find it mended
                    LOGGER.exception("%s cannot be followed", follower.folder)

    thread = threading.Thread(target=run, daemon=True, name="follow")
    thread.start()

    def end() -> None:
        ended.set()
        now.set()
        thread.join(1)

    return now.set, end
