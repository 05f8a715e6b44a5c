"""Bundle: the one immutable folder that production runs, with the hash of every file in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Schema
from mlops_loop.scoring.manifest import Manifest
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.promotion import PromotionFacts

MANIFEST = "bundle.json"
PROMOTION = "promotion.json"  # joins the bundle when it is promoted: version, commit, person
# What the monitor compares with.
REFERENCE = "reference.parquet"
HELD_OUT = "held_out.parquet"
CARDS = {"card.md", "card.html"}  # what a promotion completes: it then holds their new hashes
Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    promotion: PromotionFacts
    schema: Schema
    sha256: str

    @property
    def version(self) -> str:
        return self.promotion.version or f"unpromoted-{self.sha256[:12]}"

    @property
    def operating_point(self) -> OperatingPoint:
        known = self.manifest.model_dump(include={"threshold", "half_width"}, exclude_none=True)
        return OperatingPoint(**known)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder and those below it, by its path in the folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in found}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the folder's bundle.json: the manifest with the hash of each file."""
    (folder / MANIFEST).unlink(missing_ok=True)
    sealed = manifest.model_copy(update={"files": hashes(folder)})
    files.write_json(folder / MANIFEST, sealed.model_dump(mode="json", exclude_unset=True))


def read_document(path: Path, model: type[Document]) -> Document:
    try:
        return model.model_validate(files.read_json(path))
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
    manifest = read_document(folder / MANIFEST, Manifest)
    sha256 = files.sha256(folder / MANIFEST)
    promoted = folder / PROMOTION
    facts = read_document(promoted, PromotionFacts) if promoted.is_file() else PromotionFacts()
    if not manifest.files or facts.bundle_sha256 not in ("", sha256):
        raise Refusal(f"{folder / MANIFEST} was changed after its export")
    if foreign := set(facts.files) - CARDS:
        raise Refusal(f"{promoted} was changed: a promotion does not replace {min(foreign)}")
    for name, expected in (manifest.files | facts.files).items():
        if not (folder / name).is_file() or files.sha256(folder / name) != expected:
            raise Refusal(f"{folder / name} is missing or was changed after its export")
    if problem := versions.problem(manifest.mlops_loop):
        raise Refusal(f"the bundle in {folder} was {problem}")
    return Bundle(folder, manifest, facts, read_yaml(folder / "schema.yaml", Schema), sha256)
