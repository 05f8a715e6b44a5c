"""A contract and rows that are made up, for tests that need none of the project's data."""

from typing import Any

import numpy as np
import pandas as pd

from mlops_loop.contract.schema import Schema

CLASSES = {
    "binary-classification": ["no", "yes"],
    "multiclass-classification": ["no", "perhaps", "yes"],
    "regression": [],
}
COLUMNS = {  # of `made_up_table`, beside its time and target
    "size": {"type": "number", "nullable": True},
    "count": {"type": "integer"},
    "sort": {"type": "category", "categories": ["a", "b", "c"], "allow_unknown": True},
}


def raw_contract(task: str, columns: dict[str, Any], **about: Any) -> dict[str, Any]:
    """Return what schema.yaml says of these columns and a `target`."""
    target: dict[str, Any] = {"type": "number", "minimum": -1000, "maximum": 1000}
    if CLASSES[task]:
        target = {"type": "category", "categories": CLASSES[task]}
    if task == "binary-classification":
        about["positive"] = "yes"
    columns = columns | {"target": target | {"role": "target"}}
    return {"name": "t", "task": task, "target": "target", "columns": columns, **about}


def made_up_contract(task: str, columns: dict[str, Any] = COLUMNS, **about: Any) -> Schema:
    return Schema.model_validate(raw_contract(task, columns, **about))


def made_up_table(task: str, rows: int) -> pd.DataFrame:
    """Return rows with a signal, in no order of time, with some at the same time."""
    random = np.random.default_rng(0)
    size = random.normal(size=rows).astype("float32").astype(float)
    sort = random.choice(["a", "b", "c"], rows)
    target = 3 * size + (sort == "a") + random.normal(scale=0.5, size=rows)
    if classes := CLASSES[task]:
        target = np.array(classes)[pd.qcut(target, len(classes), labels=False)]
    size[::20] = np.nan
    count = random.integers(0, 9, rows)
    time = pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, rows // 2, rows), "h")
    found = {"time": time, "size": size, "count": count, "sort": sort, "target": target}
    return pd.DataFrame(found)
