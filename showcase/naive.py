"""The naive candidate: it learned from the last months alone, and asks the gates to be promoted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

from showcase.documents import PromoteSummary
from showcase.evaluation import Evaluation
from showcase.project import CHAMPION, FROZEN, Workspace
from showcase.server import wait_for_version
from showcase.story import NaiveCandidate, name_of
from showcase.windows import windows_before, write_windows

RECENT_DAYS = 92
ACCEPTED = Path("reports/data/accepted.json")  # how the data was distributed that passed last
TEST = Path("data/test.parquet")
REFUSED = 3  # exit code of a verb whose check says no


@contextmanager
def restored(folder: Path, *names: str) -> Iterator[None]:
    """Put files back as they were."""
    before = {name: (folder / name).read_bytes() for name in names}
    try:
        yield
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)


def try_naive(
    workspace: Workspace, client: httpx.Client, evaluation: Evaluation, month: int
) -> NaiveCandidate:
    """Train a candidate on the last months alone, ask the gates, and put everything back."""
    folder = workspace.folder
    with restored(folder, "params.yaml", "dvc.lock", ACCEPTED.as_posix()):
        # One summer is not distributed as the year so far: the gates shall say no, not the data
        # checks.
        (folder / ACCEPTED).unlink()
        write_windows(folder, windows_before(folder, month + 1, RECENT_DAYS))
        workspace.reproduce()
        champion = measure(workspace, evaluation, CHAMPION)
        frozen = measure(workspace, evaluation, FROZEN)
        found = ask_gates(workspace, client)
    candidate = workspace.bundle(Path("build/bundle")).metrics[evaluation.metric]
    return NaiveCandidate(name_of(month), candidate, champion, frozen, found.outcome, found.reason)


def ask_gates(workspace: Workspace, client: httpx.Client) -> PromoteSummary:
    """Ask for the candidate's promotion; one that the gates promote is rolled back."""
    before = workspace.version()
    said = workspace.verb("promote", "--json", accepted=(0, REFUSED)).stdout
    found = PromoteSummary.model_validate_json(said)
    if found.outcome == "promoted":
        workspace.verb("rollback", before, "--reason", "it was naive")
        wait_for_version(client, before)
    return found


def measure(workspace: Workspace, evaluation: Evaluation, bundle: Path) -> float:
    """Return the metric of a bundle on the test window, which the verb `score` lets it predict."""
    folder = workspace.folder
    scored = folder / "build/scored" / f"{bundle.name}.parquet"
    scored.parent.mkdir(parents=True, exist_ok=True)
    scored.unlink(missing_ok=True)
    settings = {**workspace.settings, "BUNDLE": str(folder / bundle)}
    looking = replace(workspace, settings=settings)
    looking.verb("score", TEST.as_posix(), str(scored))
    table = pd.read_parquet(scored)
    given = pd.read_parquet(folder / TEST)
    answers = table[[name for name in table if name not in given]]
    names = [f"probability of {name}" for name in evaluation.classes]
    scores = answers[names] if names else answers
    truth = evaluation.truth(table[evaluation.bundle.target])
    return evaluation.measure(truth, np.asarray(scores, dtype=float))
