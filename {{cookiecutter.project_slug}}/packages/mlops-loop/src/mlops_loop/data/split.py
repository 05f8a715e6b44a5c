"""Split: by time, so that the model is judged on a later time than it learned from.

Without a timestamp the split is a random one, with every class in its share.
"""

from collections import Counter
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import RAW, TEST, TRAIN, VALIDATION
from mlops_loop.base.params import SplitParams, load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data.cast import Reasons, check_table
from mlops_loop.data.derived import typed_batches

SPLITS = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
Places = NDArray[np.int8]  # in SPLITS, of each row
HINT = "see split in params.yaml"


def assign(schema: Schema, params: SplitParams) -> Places:
    """Return the window of each row of data/raw.parquet, shape (rows,) int8: its place in SPLITS.

    Raises Failure if there are too few times, or none, and params.yaml asks for dates.
    """
    if params.train_end and not schema.timestamp:
        what = "params.yaml: split.train_end needs a timestamp, which schema.yaml lacks"
        raise Failure(f"{what}: make it null")
    name = schema.timestamp or schema.target
    if name not in pq.read_schema(RAW).names:
        raise lacks(name)
    typed, _ = check_table(pq.read_table(RAW, columns=[name]), {name: schema.columns[name]})
    return split_rows(typed[name].to_pandas(), schema, params)


def lacks(name: str) -> Failure:
    return Failure(f"{RAW} lacks the column {name!r}: run `uv run dvc repro`")


def split_rows(values: pd.Series, schema: Schema, params: SplitParams) -> Places:
    """Return the window of each row from its timestamp or, if there is none, its target."""
    if schema.timestamp:
        return by_time(values, params)
    if schema.task == "regression":
        deciles = np.unique(values.quantile(np.arange(1, 10) / 10))
        values = pd.Series(np.searchsorted(deciles, values))
    return at_random(values, params)


def by_time(when: pd.Series, params: SplitParams) -> Places:
    """Split at `train_end` and `validation_end`, or where these are null, at the rows' shares.

    Rows of the same time stay together.
    """
    ends = [params.train_end, params.validation_end]
    if params.train_end is None:
        times, counts = np.unique(when.dropna(), return_counts=True)
        if (last := len(times) - 1) < 2:
            raise Failure(f"{len(times)} different times are too few for three windows: {HINT}")
        earlier = (counts.cumsum() - counts) / max(1, int(counts.sum()))  # share before each time
        shares = [params.train_share, params.train_share + params.validation_share]
        first, second = np.searchsorted(earlier, np.array(shares) - 1e-9)
        first = np.clip(first, 1, last - 1)
        ends = [times[first], times[np.clip(second, first + 1, last)]]
    splits: Places = np.sum([when >= pd.Timestamp(end) for end in ends], axis=0, dtype="int8")
    return splits


def at_random(strata: pd.Series, params: SplitParams) -> Places:
    """Give each window its share of each stratum, one row at least if there are three.

    Nearly all rows stay in their window when others are added at the end.
    """
    shuffled = np.argsort(np.random.default_rng(params.seed).random(len(strata)), kind="stable")
    groups = pd.Series(pd.factorize(strata.to_numpy()[shuffled])[0])
    place = groups.groupby(groups).cumcount()
    size = groups.map(groups.value_counts())
    fewest = (size >= 3).astype(int)
    test = (size * (1 - params.train_share - params.validation_share)).round()
    test = test.clip(fewest, size - 1 - fewest)
    validation = (size * params.validation_share).round().clip(fewest, size - 1 - test)
    splits = np.empty(len(strata), dtype="int8")
    splits[shuffled] = np.select([place < test, place < test + validation], [2, 1], 0)
    return splits


def check(counts: list[Counter[str]], schema: Schema, hint: str = HINT) -> None:
    """Refuse a window without rows, or in a classification without two classes of training's."""
    lacking = [name for name in schema.classes if not counts[0][name]]
    if lacking and counts[0]:
        what = f"the training window lacks the class {lacking[0]!r} of {schema.target!r}"
        raise Failure(f"{what}: {hint}")
    for name, count in zip(SPLITS, counts, strict=True):
        if len(count) < (2 if schema.classes else 1):
            two = " and not two classes" if schema.classes else ""
            raise Failure(f"the {name} window has {count.total():,} rows{two}: {hint}")


def kept(typed: pa.Table, reasons: Reasons, schema: Schema) -> NDArray[np.bool_]:
    """Return which rows keep the contract and have target and time."""
    needed = [name for name in (schema.target, schema.timestamp) if name]
    lost = [typed[name].is_null() for name in needed]
    found: NDArray[np.bool_] = (reasons == "") & ~np.any(lost, axis=0)
    return found


def split(schema: Schema, params: SplitParams) -> tuple[list[int], int]:
    """Write the three windows; return their numbers of rows, and that of the rows left out.

    Left out are the rows that break the contract, which `validate` found few enough, and those
    without a target or timestamp.
    """
    splits = assign(schema, params)
    if absent := [name for name in schema.source if name not in pq.read_schema(RAW).names]:
        raise lacks(absent[0])
    counts: list[Counter[str]] = [Counter() for _ in SPLITS]
    start = 0
    with ExitStack() as stack:
        paths = [stack.enter_context(files.writing(path)) for path in SPLITS.values()]
        writers: list[pq.ParquetWriter] = []
        for typed, reasons in typed_batches(schema):
            table = typed.select(list(schema.used))
            opened = (pq.ParquetWriter(path, table.schema) for path in paths)
            writers = writers or list(map(stack.enter_context, opened))
            inside = splits[start : start + len(table)]
            good = kept(typed, reasons, schema)
            for place, writer in enumerate(writers):
                part = table.filter(pa.array(good & (inside == place)))
                writer.write_table(part)
                labels = part[schema.target].to_pylist() if schema.classes else [""] * len(part)
                counts[place].update(labels)
            start += len(table)
        check(counts, schema)
    return [count.total() for count in counts], start - sum(count.total() for count in counts)


def main() -> None:
    rows, left_out = split(load_schema(), load_params().split)
    sizes = ", ".join(f"{size:,} {name}" for size, name in zip(rows, SPLITS, strict=True))
    why = f"; {left_out:,} left out, as they break schema.yaml or lack target or time"
    print(f"split: {sizes} rows{why if left_out else ''}")
