"""Score the files of a folder that are new or changed, or that another model scored.

The output holds a manifest: which version of each file was scored, and by which model.
"""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.base.settings import load_settings
from mlops_loop.batch import storage
from mlops_loop.batch.score import Outcome, outcome, output_names, rejects_of, scored
from mlops_loop.data.source import partitions
from mlops_loop.data.source.partitions import Changes
from mlops_loop.data.source.remote import reached
from mlops_loop.scoring.bundle import Bundle, open_bundle

MANIFEST = "_scored.json"  # in the output; readers of Parquet pass over names with _


class Scored(BaseModel):
    version: str  # of the file that was scored
    output: str
    model: str  # SHA-256 of the bundle
    model_version: str
    rows: int
    rejected: int


class Manifest(BaseModel):
    files: dict[str, Scored]


class Update(NamedTuple):
    outcome: Outcome
    changes: Changes
    again: int  # files that did not change, and that another model had scored

    def __str__(self) -> str:
        another = f"\n{self.again:,} unchanged files scored again: by another model before"
        return f"{self.changes}{another if self.again else ''}"


def score_new(source: str, target: str | Path) -> Update:
    """Add the predictions for new and changed files of a folder to those in `target`.

    Those of a file that is gone stay. A run that is stopped is made up for by the next one.
    """
    source, target = storage.plain(source), storage.plain(str(target))
    rejects = rejects_of(target)
    parts = partitions.parts_in(source)
    before = read_manifest(target)
    storage.refuse_overwriting(source, (target, rejects), parts is not None, bool(before))
    if parts is None:
        raise Failure(f"{format_source(source)} is no folder: --incremental is for folders")
    outputs = output_names(parts, source)
    refuse_others(target, {*outputs.values(), *(one.output for one in before.values())})
    bundle = open_bundle(Path(load_settings().bundle))
    versions = {name: one.version for name, one in before.items()}
    same = [name for name, part in parts.items() if versions.get(name) == part.version]
    done = {name for name in same if before[name].model == bundle.sha256}
    todo = {name: output for name, output in outputs.items() if name not in done}
    with scored(todo, source, parts, target, bundle) as (counts, made):
        if todo:
            storage.add(made[rejects], rejects)
        if any(good for good, _ in counts.values()):
            now = {
                name: entry(outputs[name], parts[name].version, count, bundle)
                for name, count in counts.items()
            }
            manifest = next(iter(made[target].values())).with_name(MANIFEST)
            content = Manifest(files=dict(sorted((before | now).items())))
            files.write_json(manifest, content.model_dump())
            storage.add(made[target] | {MANIFEST: manifest}, target)  # the manifest last
    changes = partitions.compare(versions, parts)
    return Update(outcome(counts, rejects), changes, len(same) - len(done))


def entry(output: str, version: str, counts: list[int], bundle: Bundle) -> Scored:
    good, bad = counts
    made_by = {"model": bundle.sha256, "model_version": bundle.version}
    return Scored(version=version, output=output, rows=good, rejected=bad, **made_by)


def read_manifest(target: str) -> dict[str, Scored]:
    text = '{"files": {}}'
    if "://" in target:
        with reached(target) as (system, place):
            system.invalidate_cache()
            if system.exists(f"{place}/{MANIFEST}"):
                text = system.cat_file(f"{place}/{MANIFEST}").decode()
    elif (path := Path(target) / MANIFEST).is_file():
        text = path.read_text(encoding="utf-8")
    try:
        return Manifest.model_validate(json.loads(text)).files
    except ValueError:
        where = f"{format_source(target)}/{MANIFEST}"
        raise Failure(f"{where} is no manifest of score: name another folder") from None


def refuse_others(target: str, outputs: set[str]) -> None:
    """Refuse to add to a folder with other files than predictions."""
    if "://" not in target and (others := set(storage.files_in(target) or ()) - outputs):
        what = f"holds {min(others)}, which score did not write"
        raise Failure(f"{target} {what}: name another folder, or remove it")
