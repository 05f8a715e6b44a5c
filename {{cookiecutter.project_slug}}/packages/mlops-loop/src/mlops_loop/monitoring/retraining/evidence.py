"""Evidence for a retraining, from the source, the monitor, the champion and the code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.code_hash import code
from mlops_loop.base.files import PARAMS, SCHEMA
from mlops_loop.base.params import Params, dump, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import ingest
from mlops_loop.monitoring.retraining.decide import Evidence
from mlops_loop.monitoring.retraining.document import ENDS, FAILED, STARTED, Record
from mlops_loop.monitoring.retraining.windows import DAY, midnight
from mlops_loop.monitoring.window_store import stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.release import audit
from mlops_loop.release.champion import install, settle, target
from mlops_loop.scoring.bundle import HELD_OUT, Bundle, open_bundle
from mlops_loop.tracking.registry import open_registry

TRAIN_PARAMS = f"{PARAMS}: train"


@dataclass(frozen=True)
class Context:
    """What a retraining works with: the project, its champion, and the retrainings before."""

    model: str
    params: Params
    schema: Schema
    fingerprint: dict[str, str]  # hashes of what a model comes from, apart from the data
    champion: Bundle | None  # of this target
    log: audit.AuditLog
    started: tuple[datetime, ...]  # `until` of each retraining, oldest first
    finished: Record | None  # the last one that came to an end: neither failed nor killed
    last_start: audit.Seen  # which a new one builds on


def open_context(log: audit.AuditLog) -> Context:
    """Read it all; the champion is installed where it is served."""
    schema = load_schema()
    params = load_params()
    registry = open_registry(load_settings())
    settle(registry, log)  # finishes what a crash cut short before
    champion = open_bundle(target()) if install(registry, target()) else None
    if champion and (champion.schema.task, champion.schema.target) != (schema.task, schema.target):
        champion = None
    started = []
    finished = running = None
    for line in log.lines(STARTED, FAILED, *ENDS):
        if line.event == STARTED:
            running = Record.model_validate(line.told)
            started.append(datetime.fromisoformat(running.until))
            continue
        if line.event != FAILED:
            finished = running or finished
        running = None
    settings = digest(dump(params, {"train", "segments"}))
    return Context(
        model=log.model,
        params=params,
        schema=schema,
        fingerprint={**code(), SCHEMA.name: files.sha256(SCHEMA), TRAIN_PARAMS: settings},
        champion=champion,
        log=log,
        started=tuple(started),
        finished=finished,
        last_start=log.seen(STARTED),
    )


def gather(context: Context, until: datetime, force_reason: str | None) -> Evidence:
    """Return what speaks for a retraining with data of before the day of `until`, UTC."""
    champion = context.champion
    day = midnight(until)
    since = trained_through(context.finished, champion)
    known_to = day - context.params.retrain.label_delay_days * DAY
    found = Evidence(
        until=day,
        champion=champion.version if champion else None,
        trained_through=since,
        retrained=context.started,
        decay=decay_alarms(context, until),
        changed=changes(context.finished, champion, context.fingerprint),
        force_reason=force_reason,
    )
    labelled = labelled_data(context.schema, context.params, since, known_to)
    return found.model_copy(update=labelled)


def digest(params: Mapping[str, dict[str, JsonValue]]) -> str:
    """Return the hash of those sections of params.yaml that say how the model is trained."""
    settings: dict[str, JsonValue] = {**params["train"]}
    if segments := params.get("segments"):
        settings["segments"] = segments
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def changes(last: Record | None, champion: Bundle | None, now: dict[str, str]) -> tuple[str, ...]:
    """Return the files that have changed since the last retraining or, if none, the champion."""
    before = last.fingerprint if last else {}
    if not last and champion:
        manifest = champion.manifest
        before = {
            **manifest.code_sha256,
            SCHEMA.name: manifest.inputs_sha256[SCHEMA.name],
            TRAIN_PARAMS: digest(manifest.params),
        }
    names = {**before, **now} if before else {}
    return tuple(Path(name).name for name in names if before.get(name) != now.get(name))


def trained_through(last: Record | None, champion: Bundle | None) -> datetime | None:
    """Return the end of the data of the last training; None if nothing tells it."""
    if last or not champion:
        return last.trained_through if last else None
    if end := champion.manifest.params["ingest"]["end"]:
        return datetime.fromisoformat(str(end))
    if name := champion.schema.timestamp:
        times = pq.read_table(champion.folder / HELD_OUT, columns=[name])[name]
        return midnight(pc.max(times).as_py()) + DAY
    promoted = champion.promotion.promoted_at  # the data have no time, the promotion has
    return midnight(datetime.fromisoformat(promoted)) if promoted else None


def labelled_data(
    schema: Schema, params: Params, since: datetime | None, until: datetime
) -> dict[str, object]:
    """Return newest, oldest and, from `since` on, the number of the labelled rows of the source.

    Rows of `until` or later are not known yet. Nothing if the contract has no time.
    """
    if not schema.timestamp:
        return {}
    rows = 0
    times: list[datetime] = []
    columns = {name: schema.columns[name] for name in (schema.timestamp, schema.target)}
    window = params.ingest.model_copy(update={"end": until})
    for part in ingest.needed(schema, window, columns):
        when = part.filter(pc.is_valid(part[schema.target]))[schema.timestamp].drop_null()
        rows += len(when.filter(pc.greater_equal(when, since)) if since else when)
        if len(when):
            times += [pc.min(when).as_py(), pc.max(when).as_py()]
    return {"rows": rows, "newest": max(times, default=None), "oldest": min(times, default=None)}


def decay_alarms(context: Context, until: datetime) -> tuple[str, ...]:
    """Return the alarms of decay about the champion since the last retraining."""
    last = context.finished
    since = (last.seen or datetime.fromisoformat(last.until)) if last else None
    prediction_log = open_log(load_settings().prediction_log_url)
    windows = stored_summaries(prediction_log, context.model, until.replace(tzinfo=UTC))
    return tuple(
        f"{window.window}: {alarm.text}"
        for window in windows
        if context.champion and window.model_version == context.champion.version
        if since is None or window.end.replace(tzinfo=None) > since
        for alarm in window.alarms
        if alarm.verdict == "decay"
    )
