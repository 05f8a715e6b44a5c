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
from mlops_loop.batch.score import Outcome, outcome, plan, scored
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
    before = read_manifest(storage.plain(str(target)))
    work = plan(source, str(target), bool(before))
    if not work.is_folder:
        raise Failure(f"{format_source(work.source)} is no folder: --incremental is for folders")
    names = dict(zip(work.parts, work.given, strict=True))  # of the predictions
    refuse_others(work.target, {*work.given, *(one.output for one in before.values())})
    bundle = open_bundle(Path(load_settings().bundle))
    versions = {name: one.version for name, one in before.items()}
    same = [name for name, part in work.parts.items() if versions.get(name) == part.version]
    done = {name for name in same if before[name].model == bundle.sha256}
    parts = {name: part for name, part in work.parts.items() if name not in done}
    given = {names[name]: work.given[names[name]] for name in parts}
    todo = work._replace(parts=parts, given=given)
    with scored(todo, bundle) as (counts, made):
        if parts:
            storage.add(made[todo.rejects], todo.rejects)
        if any(good for good, _ in counts.values()):
            now = {
                name: entry(names[name], part.version, counts[names[name]], bundle)
                for name, part in parts.items()
            }
            manifest = next(iter(made[todo.target].values())).with_name(MANIFEST)
            content = Manifest(files=dict(sorted((before | now).items())))
            files.write_json(manifest, content.model_dump())
            storage.add(made[todo.target] | {MANIFEST: manifest}, todo.target)  # the manifest last
    changes = partitions.compare(versions, work.parts)
    return Update(outcome(counts, todo.rejects), changes, len(same) - len(done))


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
