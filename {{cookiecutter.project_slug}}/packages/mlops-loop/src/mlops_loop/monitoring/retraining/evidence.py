"""Evidence for a retraining, from the source, the monitor, the champion and the code."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.code_hash import code
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BUNDLE, PARAMS, SCHEMA, TEST
from mlops_loop.base.params import Params, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import ingest, tables
from mlops_loop.data.split import SPLITS
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored
from mlops_loop.monitoring.retraining.decide import Evidence
from mlops_loop.monitoring.retraining.document import (
    ENDS,
    FAILED,
    STARTED,
    Measured,
    Record,
    Split,
)
from mlops_loop.monitoring.retraining.windows import DAY, midnight
from mlops_loop.prediction_log.window_summary import WindowSummary
from mlops_loop.release import audit
from mlops_loop.release.candidate import score
from mlops_loop.release.champion import install, settle, target
from mlops_loop.release.champion_inputs import with_champion_inputs
from mlops_loop.scoring.bundle import HELD_OUT, Bundle, open_bundle
from mlops_loop.tracking.registry import open_registry
from mlops_loop.tracking.session import experiment_name

TRAIN_PARAMS = f"{PARAMS}: train"


@dataclass(frozen=True)
class Context:
    """What a retraining works with: the project, its champion, and the retrainings before."""

    model: str
    params: Params
    schema: Schema
    champion: Bundle | None  # of this target
    log: sa.Engine  # the audit log
    started: tuple[datetime, ...]  # `until` of each retraining, oldest first
    finished: Record | None  # the last one that came to an end: neither failed nor killed
    seen: audit.Seen  # the last start, which a new one builds on


def open_context(log: sa.Engine) -> Context:
    """Read it all; the champion is installed where it is served."""
    schema = load_schema()
    model = experiment_name()
    registry = open_registry(load_settings())
    settle(registry, log)  # finishes what a crash cut short before
    champion = open_bundle(target()) if install(registry, target()) else None
    if champion and (champion.schema.task, champion.schema.target) != (schema.task, schema.target):
        champion = None
    started = []
    finished = running = None
    for line in audit.read(log, model):
        if line.event == STARTED:
            running = Record.model_validate(line.told)
            started.append(datetime.fromisoformat(running.until))
        elif line.event == FAILED:
            running = None
        elif line.event in ENDS and running:
            finished = running
            running = None
    seen = audit.Seen(audit.last(log, model, STARTED), (STARTED,))
    params = load_params()
    return Context(model, params, schema, champion, log, tuple(started), finished, seen)


def gather(
    context: Context,
    day: datetime,
    windows: list[WindowSummary],
    made_from: dict[str, str],
    force_reason: str | None,
) -> Evidence:
    """Return what speaks for a retraining with data of before a day."""
    last = context.finished
    champion = context.champion
    since = trained_through(last, champion)
    known_to = day - context.params.retrain.label_delay_days * DAY
    labelled = labelled_data(context.schema, context.params, since, known_to)
    return Evidence(
        until=day,
        champion=champion.version if champion else None,
        trained_through=since,
        retrained=context.started,
        decay=decay_alarms(windows, champion, last.seen_until if last else None),
        rows=labelled.new_rows,
        newest=labelled.newest,
        oldest=labelled.oldest,
        changed=changes(last, champion, made_from),
        force_reason=force_reason,
    )


class LabelledData(NamedTuple):
    """The labelled rows of the source; all None if the contract has no time."""

    new_rows: int | None = None
    newest: datetime | None = None
    oldest: datetime | None = None


def fingerprint(params: Params) -> dict[str, str]:
    """Return the hashes of what a model comes from, apart from the data."""
    settings = digest(params.train.model_dump(mode="json"))
    return {**code(), SCHEMA.name: files.sha256(SCHEMA), TRAIN_PARAMS: settings}


def digest(settings: Mapping[str, JsonValue]) -> str:
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def changes(last: Record | None, champion: Bundle | None, now: dict[str, str]) -> tuple[str, ...]:
    """Return the files that have changed since the last retraining or, if none, the champion."""
    before = last.fingerprint if last else {}
    if not last and champion:
        manifest = champion.manifest
        before = {
            **manifest.code_sha256,
            SCHEMA.name: manifest.inputs_sha256[SCHEMA.name],
            TRAIN_PARAMS: digest(manifest.params["train"]),
        }
        if not manifest.code_sha256:  # an older bundle does not tell its code: the rest is compared
            now = {name: value for name, value in now.items() if name in before}
    names = {**before, **now} if before else {}
    return tuple(Path(name).name for name in names if before.get(name) != now.get(name))


def trained_through(last: Record | None, champion: Bundle | None) -> datetime | None:
    """Return the end of the data of the last training; None if nothing tells it."""
    if last:
        return last.trained_through
    if not champion:
        return None
    if end := champion.manifest.params["ingest"]["end"]:
        return datetime.fromisoformat(str(end))
    name = champion.schema.timestamp
    if not name:  # the data have no time, the promotion has
        promoted = champion.promotion.promoted_at
        return midnight(datetime.fromisoformat(promoted)) if promoted else None
    path = champion.folder / HELD_OUT
    if not path.is_file():
        return None
    newest: datetime = pc.max(pq.read_table(path, columns=[name])[name]).as_py()
    return midnight(newest) + DAY


def labelled_data(
    schema: Schema, params: Params, since: datetime | None, until: datetime
) -> LabelledData:
    """Read the source up to `until`: count the labelled rows from `since` on."""
    if not schema.timestamp:
        return LabelledData()
    window = params.ingest.model_copy(update={"end": until})
    rows = 0
    times: list[datetime] = []
    columns = {name: schema.columns[name] for name in (schema.timestamp, schema.target)}
    for part in ingest.needed(schema, window, columns):
        is_labelled = pc.is_valid(part[schema.target])
        when = part[schema.timestamp]
        when = when.filter(pc.and_(pc.is_valid(when), is_labelled))
        rows += len(when.filter(pc.greater_equal(when, since)) if since else when)
        if len(when):
            times += [pc.min(when).as_py(), pc.max(when).as_py()]
    return LabelledData(rows, max(times, default=None), min(times, default=None))


def decay_alarms(
    windows: list[WindowSummary], champion: Bundle | None, since: datetime | None
) -> tuple[str, ...]:
    """Return the alarms of decay about the champion in windows that ended after `since`, UTC."""
    return tuple(
        f"{window.window}: {alarm.text}"
        for window in windows
        if champion
        and window.model_version == champion.version
        and (since is None or window.end.replace(tzinfo=None) > since)
        for alarm in window.alarms
        if alarm.verdict == "decay"
    )


def split_sizes(schema: Schema) -> dict[str, Split]:
    """Return rows, first and last time of the training, validation and test window."""
    found = {}
    for name, path in SPLITS.items():
        first = last = None
        if schema.timestamp:
            times = pq.read_table(path, columns=[schema.timestamp])[schema.timestamp]
            first = pc.min(times).as_py().isoformat()
            last = pc.max(times).as_py().isoformat()
        found[name] = Split(rows=pq.read_metadata(path).num_rows, first=first, last=last)
    return found


def candidate_metrics(champion: Bundle | None, params: Params) -> Measured:
    """Return the metrics of candidate, champion and naive baseline on the newest window."""
    candidate = open_bundle(BUNDLE)
    schema = candidate.schema
    found: Measured = {"candidate": candidate.manifest.metrics}
    if champion:
        with suppress(Failure):  # of two that cannot be compared: `promote` says why
            table = tables.read_sample(TEST, params.gates.max_rows)
            truth = tasks.of(schema).truth(table, schema)
            scores = score(champion, with_champion_inputs(champion.schema, schema, table, params))
            point = champion.operating_point
            scored = Scored(truth, scores, point, schema, params.evaluate)
            found["champion"] = {**tasks.measure(scored)}
    return found | {"naive baseline": candidate.manifest.baseline}
