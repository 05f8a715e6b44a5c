"""Files: where they are, and how they are read and written."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from .errors import Failure

SCHEMA, PARAMS, BEHAVIOUR = Path("schema.yaml"), Path("params.yaml"), Path("behaviour.yaml")
DVC, LOCK = Path("dvc.yaml"), Path("dvc.lock")
RAW, TRAIN = Path("data/raw.parquet"), Path("data/train.parquet")
VALIDATION, TEST = Path("data/validation.parquet"), Path("data/test.parquet")
OUTPUTS = RAW, TRAIN, VALIDATION, TEST
MODEL, BUNDLE, REPORTS = Path("models/model.skops"), Path("build/bundle"), Path("reports")
BATCH = 100_000  # rows that are read or written at a time
ACCEPTED = REPORTS / "data" / "accepted.json"  # how the data was distributed that passed last
METRICS, INTERVALS, PLOTS = REPORTS / "metrics.json", REPORTS / "intervals.json", REPORTS / "plots"
SLICES, FAIRNESS, BEHAVED = (REPORTS / f"{name}.csv" for name in ("slices", "fairness", "behaviour"))

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; border: 0; margin: 1rem 0 } img { max-width: 49% }
th, td { padding: .3rem .8rem; border: 0; border-bottom: 1px solid #d9e2ec; text-align: left }
td:nth-child(2) { white-space: nowrap }"""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file or folder to, then move it into place.

    Whoever reads `path` finds the old content or the new, never half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        beside = Path(folder) / path.name
        yield beside
        if path.is_dir():
            path.replace(Path(folder) / "old")
        beside.replace(path)


def write_text(path: Path, text: str) -> None:
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Return nested values as JSON has them: NumPy's numbers as Python's, NaN as null, times as texts."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(path: Path, title: str, *parts: str) -> None:
    """Write an HTML page that needs nothing else to be shown; `parts` are HTML themselves."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    page = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{page}</body></html>')


def write_table(path: Path, table: Any) -> None:
    with writing(path) as beside:
        table.to_parquet(beside, index=False)


def write_tables(path: Path, tables: Iterable[Any]) -> tuple[int, int]:
    """Write Arrow tables, one after the other, to a Parquet file; return its rows and columns."""
    from pyarrow import parquet  # here, because the server has none

    rows, writer = 0, None
    try:
        for table in tables:
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=BATCH)
            rows += table.num_rows
    finally:
        if writer:
            writer.close()
    return rows, len(writer.schema) if writer else 0


def read_table(path: Path) -> Any:
    """Return a Parquet file as a pandas DataFrame."""
    import pandas as pd  # here, because the server has none

    if not path.is_file():
        raise Failure(f"{path} is missing: run `uv run dvc repro`")
    return pd.read_parquet(path)


def read_sample(path: Path, rows: int, seed: int = 0) -> Any:
    """Return a Parquet file as a DataFrame, or, if it has more, `rows` random rows of it in order."""
    import numpy as np
    import pandas as pd
    from pyarrow import parquet

    if not path.is_file() or (total := parquet.read_metadata(path).num_rows) <= rows:
        return read_table(path)
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).choice(total, rows, replace=False)] = True
    parts, start = [], 0
    for batch in parquet.ParquetFile(path).iter_batches(BATCH):
        parts.append(batch.to_pandas()[chosen[start : start + len(batch)]])
        start += len(batch)
    return pd.concat(parts, ignore_index=True)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is not valid JSON: {error}") from None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
