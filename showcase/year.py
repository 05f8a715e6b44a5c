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
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import requests
import sqlalchemy as sa
from filelock import FileLock, Timeout
from mlops_loop import NAME
from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import load_params
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.example import replay
from mlops_loop.example.flights import nycflights13
from mlops_loop.example.incidents import INCIDENTS, Incident
from mlops_loop.metrics import tasks
from mlops_loop.metrics.bootstrap import resample
from mlops_loop.monitoring import alerts, compare, monitor, retrain, retraining_summary
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.release.champion import roll_back
from mlops_loop.release.promote import promote, score
from mlops_loop.release.smoke_test import as_json, server
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.serving.http.telemetry import ENDPOINTS
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

FOLDER = Path("build/demo")
COPIED = "schema.yaml", "params.yaml", "behaviour.yaml", "dvc.yaml", "src"
FIRST = 4  # month in which the first model is served
MONTHS, FAST = range(4, 13), range(5, 7)
DELAY = timedelta(days=1)  # until one knows what came true
ROWS, BATCH = 3000, 20  # of an incident, and of its requests: one bad row refuses all of them
PAUSE = 0.05  # seconds between two requests while models change
RECENT = 92  # days that a naive candidate learns from
NAIVE = 10, 12  # months after which there is one
CHAMPION, FROZEN, BUSY = Path("build/champion"), Path("build/frozen"), Path("build/demo.lock")
RESAMPLES = 100
PROGRESS, DRILL = "progress.json", "rollback"
LAST: dict[str, Any] = {"result": "last"}  # the decision after the last month: nothing is to come


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


NOT_YET = Result(*[float("nan")] * 7)


class Month(NamedTuple):
    name: str
    rows: int
    version: str  # that answered
    retraining_summary: dict[str, Any]  # of the monitor
    decision: dict[str, Any]  # of the retraining
    result: Result  # when all outcomes are known


class Seen(NamedTuple):
    """An incident in its first window: verdicts, and what the rule said that must see it, if it did."""

    incident: Incident
    month: str
    verdicts: list[str]
    text: str
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
    start: int  # the first month that the first model did not know
    first: dict[str, Any]  # its metrics on its test window
    months: list[Month]
    seen: list[Seen]
    naive: list[Candidate]
    swaps: list[Swap]


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
    registry = f"sqlite:///{(root / 'mlflow.db').as_posix()}"
    return {
        **dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), registry),
        "MLFLOW_EXPERIMENT_NAME": NAME,
        "PREDICTION_LOG_URL": f"sqlite:///{(folder / 'predictions.db').as_posix()}",
        "BUNDLE": str(root / CHAMPION),
        "CHALLENGER": str(root / "build/challenger"),
        "ALERT_WEBHOOK": "",
        "ALERT_FILE": str(folder / "alerts.jsonl"),
        "TRAFFIC": "",
        **dict.fromkeys(ENDPOINTS, ""),
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
    """Return the dates of params.yaml for a candidate that is made when this month begins.

    Raises a Failure if the months before are too few.
    """
    params = load_params()
    params.ingest.start, params.retrain.window_days = day(1), recent
    newest = day(month) - DELAY - timedelta(days=1)
    return retrain.next_windows(params, retrain.Evidence(day(month), None, None, newest=newest))


def leave(*_: object) -> None:
    """End what a process is doing, once and without a word: it stops what it has started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(130)


def obey() -> None:
    """Leave when told to, by Ctrl-C or by whatever stops jobs."""
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


@contextlib.contextmanager
def helper() -> Iterator[ProcessPoolExecutor]:
    """Give a process for work that can be done meanwhile; it ends with what needs it."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), obey)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            if process.pid and os.name != "nt":
                os.kill(process.pid, signal.SIGTERM)  # silent, also while it starts
        raise
    finally:
        pool.shutdown()


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
        return bool(
            world.client.get(f"{world.address}/v1/model", timeout=10).json()["version"] == version
        )

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
    truth = {
        "prediction_id": sent.ids,
        "value": table[world.schema.target],
        "recorded": times + DELAY,
    }
    return len(table), pd.DataFrame(truth).dropna(subset=["prediction_id"])


def happen(root: Path, month: int, incident: Incident, champion: Path) -> Seen:
    """Let an incident happen to some of a month's flights, on a server of its own; look at that window."""
    folder, end = root / "incidents", day(month + 1)
    with inside(root, folder), setting(BUNDLE=str(champion)):
        schema, url = load_schema(), load_settings().prediction_log_url
        flights = nycflights13().dropna(subset=[schema.target])
        when = flights[schema.timestamp]
        table = (
            flights[(when >= day(month)) & (when < end)].sample(ROWS, random_state=0).sort_index()
        )
        with server(champion, url, folder / "server.log") as (address, client):
            since = datetime.now(UTC)
            sent = replay.send(address, client, as_json(incident.spoil(table), schema), BATCH)
            engine = open_log(url)
            replay.redate(engine, since, sent, table[schema.timestamp], shadowed=False)
        found = monitor.monitor((end - day(month)).days, end)
        alerts.tell(engine, load_settings(), found)
    texts = [alarm["text"] for alarm in found["alarms"] if alarm["rule"].startswith(incident.rule)]
    page = (folder / found["report"]).relative_to(root).as_posix()
    return Seen(incident, name_of(month), found["verdicts"], texts[0] if texts else "", page)


def compute(folder: Path) -> None:
    """Run the pipeline of a project, so that DVC's cache has what it makes."""
    command, none = [sys.executable, "-m", "dvc", "repro"], subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, stdout=none, stderr=none, start_new_session=True
    ) as process:
        try:
            process.wait()
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise


def decide(world: World, month: int, swaps: list[Swap]) -> dict[str, Any]:
    """Decide whether to retrain after a month, and do so, while requests keep coming."""
    path = retraining_summary.FOLDER / "summary.json"
    path.unlink(missing_ok=True)
    with asking(world, f"retraining after {name_of(month)}", swaps):
        try:
            found = retrain.retrain(day(month + 1), False, "")
        except Failure:  # refused, or stopped: the summary says why
            if not path.exists():
                raise
            found = dict(files.read_json(path))
    if found["result"] == "declined":
        swaps.pop()  # nothing went on meanwhile
    return found


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
            if verdict == "promoted":
                roll_back(champion.version, "it was naive")
                serves(world, champion.version)
        except Refusal as refusal:
            verdict = str(refusal)
        frozen, name = open_bundle(FROZEN), next(iter(task.GATE_METRICS))
        given = task.truth(table, world.schema), score(frozen, table), frozen.manifest, world.schema
        metrics = measured["candidate"][name], measured["champion"][name]
        return Candidate(
            name_of(month), (*metrics, task.measure(*given, params.evaluate)[name]), verdict
        )
    finally:
        for path, before in kept.items():
            path.write_bytes(before)


def drill(world: World, swaps: list[Swap]) -> None:
    """Roll back to the champion before, and return, while requests keep coming."""
    now = open_bundle(CHAMPION).version
    with asking(world, DRILL, swaps):
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
    name, more = next(iter(task.GATE_METRICS.items()))
    pair = [compare.usable(rows, schema) for rows in sides(world, month)]
    truth = task.truth(pair[0].rename(columns={"value": schema.target}), schema)
    scores = [compare.scores(rows["output"], schema) for rows in pair]
    decisions = [compare.operating_point(rows["output"], schema) for rows in pair]
    new, old = (task.weighted_metrics(truth, s, d, schema) for s, d in zip(scores, decisions, strict=True))

    def gain(weights: np.ndarray) -> dict[str, float]:
        return {"gain": (new(weights)[name] - old(weights)[name]) * (1 if more else -1)}

    drawn = resample(gain, compare.groups(pair[0]), RESAMPLES)["gain"].quantile([0.025, 0.975])
    every = np.ones(len(truth))
    errors = [
        task.miscalibration(truth, s, d, schema, params.evaluate)
        for s, d in zip(scores, decisions, strict=True)
    ]
    return Result(new(every)[name], old(every)[name], gain(every)["gain"], *drawn, *errors)


def begin(root: Path, last: int) -> tuple[int, dict[str, Any]]:
    """Train a first model that the gates let pass, on what is earlier than some month; keep a copy of it.

    Return that month, at the earliest FIRST, and the metrics on its test window. One that is refused, or has
    too little to learn from, has to wait for the next month's data; Failure if that is so to the last.
    """
    for month in range(FIRST, last + 1):
        try:
            retrain.write_windows(windows(month))
        except Failure:
            if month == last:
                raise
            continue
        reproduce()
        try:
            promote()
            break
        except Refusal:
            if month == last:
                raise
    shutil.copytree(root / CHAMPION, root / FROZEN)
    return month, dict(open_bundle(CHAMPION).manifest["metrics"])


@contextlib.contextmanager
def begun(fast: bool) -> Iterator[Future[Story]]:
    """Let the year pass in a process of its own, in a folder made anew. A second demo is a Failure."""
    BUSY.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(BUSY).acquire(timeout=0)
    except Timeout:
        raise Failure("another demo is running in this folder") from None
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a cancelled job stops all of it
    # Several processes compute: those whose threads wait must not keep the others from it.
    with held, setting(OMP_WAIT_POLICY="PASSIVE"), helper() as pool:
        copy_project(Path.cwd(), FOLDER)
        yield pool.submit(tell, FOLDER.resolve(), fast)


def watch(story: Future[Story]) -> Story:
    """Show how far it is, and return the story when it has been told."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        bar = progress.add_task("", total=1.0)
        while not story.done():
            with contextlib.suppress(OSError, Failure):
                found = files.read_json(FOLDER / PROGRESS)
                progress.update(bar, completed=found["share"], description=found["text"])
            time.sleep(0.2)
        if not story.exception():
            progress.update(bar, completed=1.0, description="the year has passed")
    try:
        return story.result()
    except Failure as failure:
        raise type(failure)(f"{failure}; what the year printed is in {FOLDER}/story.log") from None


def tell(root: Path, fast: bool) -> Story:
    """Let the year pass, from the first model to the last month; return what came of it."""
    months, found, swaps = list(FAST if fast else MONTHS), list[Month](), list[Swap]()
    steps = iter(range(1, 100))

    def now(text: str) -> None:
        share = min(1.0, next(steps) / (3 * len(months) + 2))
        files.write_json(root / PROGRESS, {"share": share, "text": text})

    now("the first model: train, ask the gates")
    with inside(root, root), quiet(root / "story.log"), helper() as pool:
        # Of its newest rows a retraining knows no more than the log does.
        late = edited(
            files.PARAMS, lambda params: params["retrain"].update(label_delay_days=DELAY.days)
        )
        files.write_text(files.PARAMS, late)
        schema, (start, first) = load_schema(), begin(root, months[-1])
        months = [month for month in months if month >= start]
        (root / "incidents").mkdir()
        for name in ("schema.yaml", "params.yaml"):
            shutil.copy(name, root / "incidents")
        seen = []
        for month in () if fast else NAIVE:  # on the core that has nothing to do
            pool.submit(compute, other_project(root, month))
        url = load_settings().prediction_log_url
        traffic: Any = {"CHALLENGER": str(root / FROZEN), "TRAFFIC": "shadow"}
        with server(CHAMPION, url, root / "server.log", **traffic) as (address, client):
            flights = nycflights13().dropna(subset=[schema.target])
            world = World(root, address, client, open_log(url), schema, flights)
            replay.wait_for(
                lambda: "challenger" in client.get(f"{address}/health/ready").json(),
                "the frozen model",
            )
            pending, happens, naive = pd.DataFrame(), list(INCIDENTS), list[Candidate]()
            for month in months:
                label, version = name_of(month), open_bundle(CHAMPION).version
                if happens:
                    kept = shutil.copytree(CHAMPION, root / "incidents" / label)
                    seen.append(pool.submit(happen, root, month, happens.pop(0), Path(kept)))
                now(f"{label}: its flights over HTTP")
                rows, truth = pass_by(world, month)
                pending = pd.concat([pending, truth])
                due = pending["recorded"] < day(month + 1)
                replay.deliver(world.address, world.client, world.engine, pending[due])
                pending = pending[~due]
                now(f"{label}: monitor")
                seen_now = monitor.monitor((day(month + 1) - day(month)).days, day(month + 1))
                alerts.tell(world.engine, load_settings(), seen_now)
                now(f"{label}: learn again?")
                decision = decide(world, month, swaps) if month < months[-1] else LAST
                found.append(Month(label, rows, version, seen_now, decision, NOT_YET))
                if decision["result"] == "promoted" and not any(
                    swap.what == DRILL for swap in swaps
                ):
                    now(f"{label}: roll back, and return")
                    drill(world, swaps)
                if month in NAIVE and not fast:
                    now(f"{label}: a naive candidate")
                    naive.append(try_naive(world, month))
            now("what it was worth")
            replay.deliver(world.address, world.client, world.engine, pending)
            pairs = zip(months, found, strict=True)
            found = [month._replace(result=judge(world, number)) for number, month in pairs]
        metric = next(iter(tasks.of(schema).GATE_METRICS))
        return Story(metric, start, first, found, [one.result() for one in seen], naive, swaps)


def other_project(root: Path, month: int) -> Path:
    """Return a project beside the story's for a naive candidate after a month."""
    folder = root / "ahead" / name_of(month)
    copy_project(root.parent.parent, folder)
    with contextlib.chdir(folder):
        retrain.write_windows(windows(month + 1, RECENT))
    return folder
