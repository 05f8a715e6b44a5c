"""Files: where they are, and how they are read and written."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from mlops_loop.base.errors import Failure

SCHEMA = Path("schema.yaml")
PARAMS = Path("params.yaml")
BEHAVIOUR = Path("behaviour.yaml")
DVC = Path("dvc.yaml")
LOCK = Path("dvc.lock")
RAW = Path("data/raw.parquet")
TRAIN = Path("data/train.parquet")
VALIDATION = Path("data/validation.parquet")
TEST = Path("data/test.parquet")
OUTPUTS = RAW, TRAIN, VALIDATION, TEST
MODEL = Path("build/model.skops")
BUNDLE = Path("build/bundle")
REPORTS = Path("reports")
BATCH = 100_000  # rows that are read or written at a time
ACCEPTED = REPORTS / "data" / "accepted.json"  # how the data was distributed that passed last
COMPARISON = REPORTS / "comparison.json"  # of the estimators that `train.model: auto` tried
METRICS = REPORTS / "metrics.json"
INTERVALS = REPORTS / "intervals.json"
PLOTS = REPORTS / "plots"
SLICES = REPORTS / "slices.csv"
FAIRNESS = REPORTS / "fairness.csv"
BEHAVED = REPORTS / "behaviour.csv"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file or folder to, then move it into place.

    Whoever reads `path` finds the old content or the new, never half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        tmp_path = Path(folder) / path.name
        yield tmp_path
        if path.is_dir():
            path.replace(Path(folder) / "old")
        tmp_path.replace(path)


def make_readable(folder: Path) -> None:
    """Let every user read a folder's files, whatever the umask was."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def write_text(path: Path, text: str) -> None:
    with writing(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: object) -> Any:
    """Return nested values as JSON has them: NumPy's numbers too, NaN as null, times as texts."""
    return json.loads(to_json(value, inf_nan_mode="null", fallback=lambda number: number.item()))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is not valid JSON: {error}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a checkout with other line endings is the same contract."""
    if path.suffix in (".yaml", ".lock"):
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
