"""Score over Ray Data: actors that hold the model score the pieces of the input.

Rows go from storage through one worker to storage, some at a time: neither the driver nor Ray's
object store sees them. A run that was stopped goes on: what is done is not done again.
"""

import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import ray
import ray.data
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.project import current_project
from mlops_loop.batch import storage
from mlops_loop.batch.score import Given, Outcome, Plan
from mlops_loop.data.source.remote import reached
from mlops_loop.scoring.bundle import Bundle
from rich.console import Console
from rich.progress import Progress

from mlops_loop_ray.cluster import connected, reason
from mlops_loop_ray.pieces import KINDS, Mark, Piece, by_output, marks, pieces
from mlops_loop_ray.worker import Answer, Files, Worker, join


def score(todo: Plan, bundle: Bundle) -> Outcome:
    """Do what `batch.score.score` does, on the cluster."""
    found = pieces({output: at_all(given) for output, given in todo.given.items()}, bundle)
    target, rejects = absolute(todo.target), absolute(todo.rejects)
    folder = storage.sibling(target, f".scoring-{storage.name_of(target).name}")
    if "://" not in folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with connected(), todo.unchanged():
            done = run(found, folder, bundle)
            wholes = joined(found, folder)
    except Failure as failure:
        raise type(failure)(f"{failure}{what_is_left(folder, found)}") from None
    good, bad = (sum(mark["rows"][place] for mark in done.values()) for place in range(2))
    # As without a cluster: the rejects first, and nothing replaces a good output by none.
    places = {"bad": rejects, "good": target} if good else {"bad": rejects}
    for kind, place in places.items():
        publish({one: names[kind] for one, names in wholes.items()}, folder, place, todo.is_folder)
    remove(folder)
    return Outcome(good, bad, todo.rejects)


def run(found: list[Piece], folder: str, bundle: Bundle) -> dict[str, Mark]:
    """Score the pieces that are not done; return the marks of all."""
    done = marks_if_any(folder, found)
    left = [one for one in found if one.key not in done]
    console = Console(stderr=True)
    if done:
        console.print(f"{len(done):,} of {len(found):,} pieces are done already")
    with Progress(console=console) as bar:
        task = bar.add_task(f"{len(found):,} pieces", total=len(found), completed=len(done))
        with closing(answers(left, folder, bundle)) as arriving:
            for answer in arriving:
                if answer["failure"]:
                    kind = Refusal if answer["code"] == Refusal.code else Failure
                    raise kind(answer["failure"])
                if answer["note"]:
                    bar.console.print(answer["note"], markup=False, soft_wrap=True)
                bar.advance(task)
    done = marks_if_any(folder, found)
    if missing := [one.source for one in found if one.key not in done]:
        raise Failure(f"{folder} lacks what was scored of {missing[0]}: who removed it?")
    return done


def answers(left: list[Piece], folder: str, bundle: Bundle) -> Generator[Answer]:
    if not left:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    paths = [path for path in bundle.folder.rglob("*") if path.is_file()]
    files: Files = {path.relative_to(bundle.folder).as_posix(): path.read_bytes() for path in paths}
    most = max(1, min(len(left), int(ray.cluster_resources().get("CPU", 1))))
    # From one on, so that it goes on with what a lost node leaves. A piece waits for no worker that
    # is busy while another one is free.
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1
    )
    items = [one._asdict() | {"keys": json.dumps(one.keys)} for one in left]
    rows = ray.data.from_items(items, override_num_blocks=len(left))
    # What a dead worker or node had is done by another one, as often as it takes (the default):
    # a limit is used up while Ray finds out that a node is gone.
    given = ray.put(files), folder, current_project()
    scored = rows.map(Worker, fn_constructor_args=given, compute=pool, num_cpus=1)
    try:
        yield from scored.iter_rows()
    except ray.exceptions.RayError as error:
        raise Failure(f"the cluster failed: {reason(error)}") from None


def joined(found: list[Piece], folder: str) -> dict[str, dict[str, str]]:
    """Return the names of what belongs to each output, after making one part of several."""
    wholes: dict[str, dict[str, str]] = {}
    running = []
    for group in by_output(found):
        first = group[0]
        wholes[first.output] = {kind: first.part(kind) for kind in KINDS}
        if len(group) > 1:
            wholes[first.output] = {kind: f"whole-{first.part(kind)}" for kind in KINDS}
            for kind, whole in wholes[first.output].items():
                names = [one.part(kind) for one in group]
                running.append(join.remote(folder, names, whole))
    try:
        ray.get(running)
    except ray.exceptions.RayError as error:
        raise Failure(f"the cluster failed: {reason(error)}") from None
    return wholes


def publish(names: dict[str, str], folder: str, target: str, is_folder: bool) -> None:
    """Move what is whole to its place, at a URL without fetching it."""
    if "://" not in target:
        made = {output: Path(folder, name) for output, name in names.items()}
        storage.publish(made, target, is_folder)
        return
    with reached(folder, "read") as (_, source), reached(target, "written") as (system, place):
        system.invalidate_cache()  # the workers wrote there
        outputs = [f"{place}/{output}" if is_folder else place for output in names]
        system.copy([f"{source}/{name}" for name in names.values()], outputs)


def marks_if_any(folder: str, found: list[Piece]) -> dict[str, Mark]:
    with reached(folder) as (system, place):
        there = system.exists(place)
    return marks(folder, found) if there else {}


def what_is_left(folder: str, found: list[Piece]) -> str:
    """Return how to go on; the folder goes if nothing in it is worth keeping."""
    try:
        done = len(marks_if_any(folder, found))
    except Failure:
        return ""
    if done:
        return f" ({done:,} of {len(found):,} pieces are done: the same command goes on there)"
    remove(folder)
    return ""


def remove(folder: str) -> None:
    with reached(folder, "removed") as (system, there):
        if system.exists(there):
            system.rm(there, recursive=True)


def at_all(given: Given) -> Given:
    return given._replace(place=absolute(given.place))


def absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())
