"""The year: the closed loop on real months, from the first model to December.

The showcase sends one month after the other to the server; outcomes arrive a day later. The first
model goes on in the shadow, frozen, as the control.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import httpx
import pandas as pd
import sqlalchemy as sa

from showcase import backfill, documents
from showcase.documents import MonitorSummary, RetrainSummary
from showcase.evaluation import Evaluation, compare
from showcase.fault_injection import FAULTS, FOLDER, inject
from showcase.naive import try_naive
from showcase.processes import Failure
from showcase.project import CHAMPION, FROZEN, Workspace, edit_params, load_params
from showcase.server import serving, under_traffic, wait_for, wait_for_version
from showcase.story import (
    TIMESTAMP,
    Comparison,
    FaultResult,
    Month,
    NaiveCandidate,
    Story,
    Swap,
    first_day,
    in_month,
    name_of,
)
from showcase.windows import DELAY, windows_before, write_windows

FIRST = 4  # the earliest month in which the first model is served
WHOLE = range(4, 13)
FAST = range(5, 7)
NAIVE = 10, 12  # months after which there is a naive candidate
DRILL = "rollback"
Progress = Callable[[str], None]


@dataclass
class World:
    """Where the year happens, and what has happened so far."""

    workspace: Workspace
    client: httpx.Client
    log: sa.Engine
    evaluation: Evaluation
    flights: pd.DataFrame
    columns: list[str]  # of a row of the API
    pending: pd.DataFrame = field(default_factory=pd.DataFrame)  # outcomes that are not known yet
    swaps: list[Swap] = field(default_factory=list)
    naive: list[NaiveCandidate] = field(default_factory=list)

    @property
    def row(self) -> backfill.Row:
        """Any row, to ask about while models change."""
        return backfill.rows_of_api(self.flights.head(1), self.columns)[0]


def read_flights(workspace: Workspace) -> pd.DataFrame:
    """Return all flights of 2013 whose target is known, as the project itself reads them."""
    year = {"start": "2013-01-01", "end": "2014-01-01"}
    edit_params(workspace.folder, {"ingest": year})
    workspace.verb("ingest")
    return pd.read_parquet(workspace.folder / "data/raw.parquet")


def train_first(workspace: Workspace, last: int) -> int:
    """Train a first model that the gates promote; keep a copy of it.

    Return the month in which it is served first. A model that is refused waits for another
    month's data.
    """
    for month in range(FIRST, last + 1):
        write_windows(workspace.folder, windows_before(workspace.folder, month))
        workspace.reproduce()
        if workspace.verb("promote", accepted=(0, 3)).code == 0:
            shutil.copytree(workspace.folder / CHAMPION, workspace.folder / FROZEN)
            return month
    raise Failure(f"the gates refused every first model until {name_of(last)}")


def replay_month(world: World, month: int) -> int:
    """Send a month's flights, and the outcomes that are known when it ends; return its rows."""
    table = in_month(world.flights, month)
    sent = backfill.send(world.client, backfill.rows_of_api(table, world.columns))
    backfill.redate(world.log, sent, table[TIMESTAMP], shadowed=True)
    outcomes = pd.DataFrame(
        {
            "prediction_id": sent.ids,
            "value": table[world.evaluation.bundle.target].to_numpy(),
            "recorded": (table[TIMESTAMP] + DELAY).to_numpy(),
        }
    )
    world.pending = pd.concat([world.pending, outcomes.dropna(subset=["prediction_id"])])
    due = world.pending["recorded"] < first_day(month + 1)
    backfill.deliver(world.client, world.log, world.pending[due])
    world.pending = world.pending[~due]
    return len(table)


def retrain(world: World, month: int) -> RetrainSummary:
    """Let `retrain` decide after a month, and carry it out, while requests keep coming."""
    path = world.workspace.folder / "reports/retrain/summary.json"
    path.unlink(missing_ok=True)
    swaps: list[Swap] = []
    what = f"retraining after {name_of(month)}"
    with under_traffic(world.workspace, world.client, world.row, what, swaps):
        until = f"{first_day(month + 1):%Y-%m-%d}"
        # It ends with 3 if the gates refused, with 1 if it stopped: the summary says why.
        world.workspace.verb("retrain", "--until", until, accepted=(0, 1, 3))
    found = documents.read(path, RetrainSummary)
    if found.result != "declined":
        world.swaps += swaps
    return found


def drill(world: World) -> None:
    """Roll back to the champion before, and return, while requests keep coming."""
    workspace = world.workspace
    now = workspace.version()
    with under_traffic(workspace, world.client, world.row, DRILL, world.swaps):
        workspace.verb("rollback", "--reason", "a drill: can we go back?")
        wait_for_version(world.client, workspace.version())
    with under_traffic(workspace, world.client, world.row, "return", world.swaps):
        workspace.verb("rollback", now, "--reason", "the drill is over")


@dataclass(frozen=True)
class Lived:
    """A month that has passed, before all its outcomes are known."""

    number: int
    rows: int
    version: str
    monitor: MonitorSummary
    retrain: RetrainSummary | None

    def told(self, comparison: Comparison) -> Month:
        name = name_of(self.number)
        return Month(name, self.rows, self.version, self.monitor, self.retrain, comparison)


def live(world: World, month: int, last: bool, progress: Progress) -> Lived:
    """Let a month pass: its flights, what the monitor finds, whether to retrain."""
    label = name_of(month)
    version = world.workspace.version()
    progress(f"{label}, sending its flights over HTTP")
    rows = replay_month(world, month)
    progress(f"{label}, monitoring it")
    monitored = world.workspace.monitor(first_day(month), first_day(month + 1))
    if last:
        return Lived(month, rows, version, monitored, None)
    progress(f"{label}, deciding whether to retrain, asking the gates")
    decided = retrain(world, month)
    drilled = any(swap.what == DRILL for swap in world.swaps)
    if decided.result == "promoted" and not drilled:
        progress(f"{label}, rolling back, and returning")
        drill(world)
    return Lived(month, rows, version, monitored, decided)


@contextmanager
def server_with_shadow(
    workspace: Workspace, flights: pd.DataFrame, evaluation: Evaluation
) -> Iterator[World]:
    """Serve the champion, with the frozen first model in the shadow."""
    frozen = str(workspace.folder / FROZEN)
    with serving(workspace, CHALLENGER=frozen, TRAFFIC="shadow") as client:
        wait_for(
            lambda: "challenger" in client.get("/health/ready").json(), "the frozen first model"
        )
        log = backfill.open_log(workspace.log_url)
        columns = backfill.columns_of_api(client)
        yield World(workspace, client, log, evaluation, flights, columns)


def tell(workspace: Workspace, fast: bool, pool: ThreadPoolExecutor, progress: Progress) -> Story:
    """Let the year pass, from the first model to the last month; return what came of it."""
    months = list(FAST if fast else WHOLE)
    folder = workspace.folder
    progress("reading the flights")
    flights = read_flights(workspace)
    progress("training the first model, asking the gates")
    # A retraining must know no more of the newest rows than the log does.
    edit_params(folder, {"retrain": {"label_delay_days": DELAY.days}})
    start = train_first(workspace, months[-1])
    months = [month for month in months if month >= start]
    first = workspace.bundle()
    params = load_params(folder)
    limits = params["evaluate"]
    evaluation = Evaluation(first, limits["calibration_bins"], limits["coverage"])
    lived: list[Lived] = []
    faults: list[Future[FaultResult]] = []
    with server_with_shadow(workspace, flights, evaluation) as world:
        for month, fault in zip_longest(months, FAULTS[: len(months)]):
            if fault:  # on the core that has nothing to do
                kept = folder / FOLDER / name_of(month)
                champion = Path(shutil.copytree(folder / CHAMPION, kept))
                faults.append(pool.submit(inject, workspace, flights, month, fault, champion))
            lived.append(live(world, month, month == months[-1], progress))
            if month in NAIVE and not fast:
                progress(f"{name_of(month)}, a naive candidate asks the gates")
                world.naive.append(try_naive(workspace, world.client, evaluation, month))
        progress("comparing champion and frozen first model")
        backfill.deliver(world.client, world.log, world.pending)
    return Story(
        metric=evaluation.metric,
        first_month=start,
        first_metrics=first.metrics,
        max_calibration_error=params["monitor"]["decay"]["max_calibration_error"],
        months=tuple(month.told(compared(world, month.number)) for month in lived),
        faults=tuple(future.result() for future in faults),
        naive=tuple(world.naive),
        swaps=tuple(world.swaps),
    )


def compared(world: World, month: int) -> Comparison:
    return compare(world.log, world.evaluation, first_day(month), first_day(month + 1))
