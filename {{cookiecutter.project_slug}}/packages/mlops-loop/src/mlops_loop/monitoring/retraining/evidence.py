"""Evidence for a retraining, from the source, the monitor, the champion and the code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from mlops_loop.base import files
from mlops_loop.base.code_hash import code
from mlops_loop.base.files import PARAMS, SCHEMA
from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import ingest
from mlops_loop.monitoring.retraining.audit_record import Record
from mlops_loop.monitoring.retraining.training_windows import DAY, midnight
from mlops_loop.prediction_log.window_summary import WindowSummary
from mlops_loop.scoring.bundle import HELD_OUT, Bundle

TRAIN_PARAMS = f"{PARAMS}: train"


@dataclass(frozen=True)
class LabelledData:
    """The labelled rows of the source; all None if the contract has no time."""

    new_rows: int | None = None
    newest: datetime | None = None
    oldest: datetime | None = None


def fingerprint(schema: Path, params: Params) -> dict[str, str]:
    """Return the hashes of what a model comes from, apart from the data."""
    return {
        **code(),
        schema.name: files.sha256(schema),
        TRAIN_PARAMS: digest(params.train.model_dump(mode="json")),
    }


def digest(settings: Mapping[str, JsonValue]) -> str:
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def changes(last: Record | None, champion: Bundle | None, now: dict[str, str]) -> tuple[str, ...]:
    """Return the files that have changed since the last retraining or, if none, the champion."""
    before = last.fingerprint if last else {}
    if not last and champion:
        manifest = champion.manifest
        code_hashes = manifest.code_sha256
        before = {
            **code_hashes,
            SCHEMA.name: manifest.inputs_sha256[SCHEMA.name],
            TRAIN_PARAMS: digest(manifest.params["train"]),
        }
        # An older bundle does not tell its code: then only the rest is compared.
        now = {name: value for name, value in now.items() if name in before or code_hashes}
    if not before:
        return ()
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return tuple(Path(name).name for name in different)


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
    for part in ingest.labels(schema, window):
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
    if champion is None:
        return ()
    return tuple(
        f"{window.window}: {alarm.text}"
        for window in windows
        if window.model_version == champion.version
        and (since is None or window.end.replace(tzinfo=None) > since)
        for alarm in window.alarms
        if alarm.verdict == "decay"
    )
