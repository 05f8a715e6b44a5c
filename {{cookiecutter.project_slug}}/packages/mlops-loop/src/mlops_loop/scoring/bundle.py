"""Bundle: the one immutable folder that production runs.

bundle.json, the manifest, holds the facts of a model and the hash of every file. promotion.json
joins it when the model is promoted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.dataclasses import dataclass as document

from mlops_loop.base import files
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Value

MANIFEST = "bundle.json"
PROMOTION = "promotion.json"
# How MLServer loads the bundle. Not in the manifest, as Seldon's agent writes a name into it.
MLSERVER_FILE = "model-settings.json"
MLSERVER_SETTINGS = {
    "implementation": "mlops_loop.serving.mlserver_runtime.Runtime",
    "parameters": {"uri": "./"},
}
# What the monitor compares with.
REFERENCE = "reference.parquet"
HELD_OUT = "held_out.parquet"
# What a promotion completes: it then holds their new hashes.
CARDS = {f"card.{kind}" for kind in ("md", "html")}
Document = TypeVar("Document", bound=BaseModel)


@document(frozen=True)
class Estimator:
    """The estimator that was fitted, whatever params.yaml calls it."""

    name: str  # of its class
    params: dict[str, Value]


@document(frozen=True)
class Segments:
    """Which file holds the model of each category of a column; the others have model.*."""

    column: str
    models: dict[str, str]


class Manifest(BaseModel, frozen=True):
    """The facts of bundle.json; a bundle of another version may lack some, and have others."""

    mlops_loop: str | None = None  # the version that made it
    name: str = ""
    task: str = ""
    target: str = ""
    positive: str | None = None
    classes: list[str] | None = None
    threshold: float | None = None
    half_width: float | None = None
    metrics: dict[str, int | float | None] = {}
    baseline: dict[str, int | float | None] = {}
    estimator: Estimator | None = None
    segments: Segments | None = None
    params: dict[str, dict[str, JsonValue]] = {}  # sections of params.yaml
    params_sha256: str = ""
    data_sha256: dict[str, str] = {}
    reports_sha256: dict[str, str] = {}
    code_sha256: dict[str, str] = {}
    code: dict[str, str | None] = {}  # fingerprints of the functions that a server runs
    inputs_sha256: dict[str, str] = {}
    example: dict[str, Value] = {}  # a row that the contract allows
    deciles: list[float] = []  # of the training sample's scores
    files: dict[str, str] = {}  # SHA-256 of each file


class PromotionFacts(BaseModel, frozen=True, extra="allow", coerce_numbers_to_str=True):
    """The registry's facts of a version, with its other tags; empty if it was never promoted."""

    __pydantic_extra__: dict[str, JsonValue]
    version: str = ""
    run_id: str = ""
    promoted_by: str = ""
    promoted_at: str = ""
    refused: str = ""
    git_commit: str = ""
    dvc_lock: str = ""
    bundle_sha256: str = ""
    files: dict[str, str] = {}  # SHA-256 of the files that the promotion completed


@dataclass(frozen=True)
class OperatingPoint:
    """What turns scores into answers; a multiclass classification uses neither number."""

    threshold: float = 0.5  # a binary classification answers the positive class from here on
    half_width: float = 0.0  # of a regression's intervals

    def as_json(self, schema: Schema) -> dict[str, float]:
        """Return the number that this task uses, by its name."""
        if not schema.classes:
            return {"half_width": self.half_width}
        return {"threshold": self.threshold} if schema.positive else {}


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
