"""Split: by time, so that the model is judged on a later time than it learned from."""

import pandas as pd

from . import files
from .errors import Failure, run
from .files import RAW, TEST, TRAIN, VALIDATION
from .params import Split, load_params
from .schema import Schema, load_schema


def split(table: pd.DataFrame, schema: Schema, params: Split) -> dict[str, pd.DataFrame]:
    """Return the rows before `train_end`, from there to `validation_end`, and from there on."""
    when = table[schema.timestamp]
    train, test = when < pd.Timestamp(params.train_end), when >= pd.Timestamp(params.validation_end)
    windows = {"train": table[train], "validation": table[~train & ~test], "test": table[test]}
    for name, window in windows.items():
        if window[schema.target].nunique() < 2:
            seen = f"the {name} window has {len(window)} rows and not both classes"
            raise Failure(f"{seen} of {schema.target!r}: see split in params.yaml")
    return windows


def main() -> None:
    windows = split(files.read_table(RAW), load_schema(), load_params().split)
    for path, window in zip((TRAIN, VALIDATION, TEST), windows.values(), strict=True):
        files.write_table(path, window)
    print("split: " + ", ".join(f"{len(window):,} {name}" for name, window in windows.items()))


if __name__ == "__main__":
    run(main)
