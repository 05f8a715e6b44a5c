"""Bundle: the one immutable folder that production runs, with the hash of every file in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.manifest import Manifest
from mlops_loop.scoring.operating_point import OperatingPoint

MANIFEST = "bundle.json"
PROMOTION = "promotion.json"  # joins the bundle when it is promoted: version, commit, person
# What the monitor compares with.
REFERENCE = "reference.parquet"
HELD_OUT = "held_out.parquet"
CARDS = {"card.md", "card.html"}  # what a promotion completes: it then holds their new hashes


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    promotion: dict[str, Any]  # empty if it was never promoted
    schema: Schema
    sha256: str

    @property
    def version(self) -> str:
        return str(self.promotion.get("version") or f"unpromoted-{self.sha256[:12]}")

    @property
    def operating_point(self) -> OperatingPoint:
        return OperatingPoint.of(self.manifest)


def hashes(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return the SHA-256 of each file in a folder and those below it, by its path in the folder."""
    found = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in found}


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the folder's bundle.json: `facts` and the hash of each file."""
    files.write_json(folder / MANIFEST, facts | {"files": hashes(folder)})


def read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(f"{path}: {place}: {first['msg']}") from None


def open_bundle(folder: Path) -> Bundle:
    """Return the bundle in a folder, after checking that it is whole.

    Raises Failure if there is none, and Refusal if it was changed since it was made.
    """
    if not (folder / MANIFEST).is_file():
        raise Failure(f"there is no bundle in {folder}: run `uv run dvc repro`, then `promote`")
    manifest = read_manifest(folder / MANIFEST)
    sha256 = files.sha256(folder / MANIFEST)
    promoted = folder / PROMOTION
    promotion = files.read_json(promoted) if promoted.is_file() else {}
    if "files" not in manifest or promotion.get("bundle_sha256", sha256) != sha256:
        raise Refusal(f"{folder / MANIFEST} was changed after its export")
    replaced = promotion.get("files", {})
    if foreign := set(replaced) - CARDS:
        raise Refusal(f"{promoted} was changed: a promotion does not replace {min(foreign)}")
    for name, expected in (manifest.files | replaced).items():
        if not (folder / name).is_file() or files.sha256(folder / name) != expected:
            raise Refusal(f"{folder / name} is missing or was changed after its export")
    if problem := versions.problem(manifest.get(versions.LOOP_KEY)):
        raise Refusal(f"the bundle in {folder} was {problem}")
    schema = read_yaml(folder / "schema.yaml", Schema)
    return Bundle(folder, manifest, promotion, schema, sha256)
