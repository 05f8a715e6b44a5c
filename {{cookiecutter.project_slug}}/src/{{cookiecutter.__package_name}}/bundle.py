"""Bundle: the one immutable folder that production runs, with the hash of every file in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .config import read_yaml
from .errors import Failure
from .schema import Schema

MANIFEST = "bundle.json"
PROMOTION = "promotion.json"  # joins the bundle when it is promoted: version, commit, person


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: dict[str, Any]
    promotion: dict[str, Any]  # empty if it was never promoted
    schema: Schema
    sha256: str

    @property
    def version(self) -> str:
        return str(self.promotion.get("version") or f"unpromoted-{self.sha256[:12]}")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the folder's bundle.json: `facts` and the hash of each file."""
    hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_json(folder / MANIFEST, facts | {"files": hashes})


def open_bundle(folder: Path) -> Bundle:
    """Return the bundle in a folder, after checking that it is whole."""
    if not (folder / MANIFEST).is_file():
        raise Failure(f"there is no bundle in {folder}: run `uv run dvc repro`, then `promote`")
    manifest, sha256 = files.read_json(folder / MANIFEST), files.sha256(folder / MANIFEST)
    promoted = folder / PROMOTION
    promotion = files.read_json(promoted) if promoted.is_file() else {}
    if "files" not in manifest or promotion.get("bundle_sha256", sha256) != sha256:
        raise Failure(f"{folder / MANIFEST} was changed after its export")
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or files.sha256(folder / name) != expected:
            raise Failure(f"{folder / name} is missing or was changed after its export")
    schema = read_yaml(folder / "schema.yaml", Schema)
    return Bundle(folder, manifest, promotion, schema, sha256)
