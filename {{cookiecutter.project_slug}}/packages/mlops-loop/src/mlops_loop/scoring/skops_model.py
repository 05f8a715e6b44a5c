"""Models in skops files: written, read and scored. Only this module needs scikit-learn to serve."""

from __future__ import annotations

import io
import math
import re
import zipfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Value
from mlops_loop.scoring.bundle import Estimator
from mlops_loop.scoring.derived import Arrays, Columns, Floats, Score
from mlops_loop.scoring.segmented_model import NAME as SEGMENTED
from mlops_loop.scoring.segmented_model import pipelines

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# What skops names by an object's address or by chance.
NAMES = re.compile(r'(?<="__id__": )\d+|(?<=")\d+(?=\.npy")|(?<=")[0-9a-f-]{36}(?=\.bin")')


def inputs(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the features as the model takes them: numbers as float32, categories as text.

    float32 in training too, because the exported graph computes in it: both then take the same
    branch at every split. A missing category is an empty text.
    """
    numbers = table[schema.numeric].astype("float32")
    categories = table[schema.categorical].astype(object).fillna("")
    return pd.concat([numbers, categories], axis="columns")[list(schema.features)]


def columns(table: pd.DataFrame, schema: Schema) -> Arrays:
    """Return the features as the scorer takes them."""
    return {name: values.to_numpy() for name, values in inputs(table, schema).items()}


def scores(model: Pipeline, table: pd.DataFrame, schema: Schema) -> Floats:
    """Return probabilities, shape (rows, classes), or for a regression values, shape (rows, 1)."""
    return predict(model, inputs(table, schema), schema)


def predict(model: Pipeline, rows: pd.DataFrame, schema: Schema) -> Floats:
    """Return the scores of rows as `inputs` gives them."""
    found = model.predict_proba(rows) if schema.classes else model.predict(rows).reshape(-1, 1)
    return np.asarray(found)


def save(model: Pipeline, path: Path) -> None:
    """Write the model as skops, so that equal models give equal bytes: numbered, undated."""
    import skops.io  # here, because it takes a second to load

    for pipeline in pipelines(model):
        if hasattr(pipeline[-1], "_bin_mapper"):
            pipeline[-1]._bin_mapper.n_threads = 1  # a trace of the machine, for speed only
    source = zipfile.ZipFile(io.BytesIO(skops.io.dumps(model)))
    text = source.read("schema.json").decode()
    numbers = {old: str(new) for new, old in enumerate(dict.fromkeys(NAMES.findall(text)))}
    text = NAMES.sub(lambda found: numbers[found[0]], text)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(zipfile.ZipInfo("schema.json"), text)
        for (old, new), kind in product(numbers.items(), ("npy", "bin")):
            if f"{old}.{kind}" in source.namelist():
                target.writestr(zipfile.ZipInfo(f"{new}.{kind}"), source.read(f"{old}.{kind}"))


def load(path: Path) -> Pipeline:
    """Return the model in a skops file; refuse types that the project does not trust."""
    import skops.io  # as in `save`

    trusted = [*project.trusted_types(), SEGMENTED]
    try:
        if unknown := set(skops.io.get_untrusted_types(file=path)) - set(trusted):
            names = ", ".join(sorted(unknown))
            raise Failure(f"{path} contains {names}: review, then add to TRUSTED_TYPES in model.py")
        return skops.io.load(path, trusted=trusted)
    except (FileNotFoundError, zipfile.BadZipFile, KeyError):
        raise Failure(f"{path} is missing or corrupt: run `uv run dvc repro -f train`") from None


def describe(model: Pipeline) -> Estimator:
    """Return what the last step of a pipeline is; the same for equal models, in any process."""
    last = model[-1]
    params = last.get_params(deep=False).items()
    return Estimator(type(last).__name__, {name: plain(value) for name, value in sorted(params)})


def plain(value: object) -> Value:
    """Return a parameter as JSON has it; of an object its text without the address in memory."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if value is None or isinstance(value, str) or is_number:
        return cast(Value, value)
    return re.sub(" at 0x[0-9a-f]+", "", str(value))


def open_model(path: Path, schema: Schema) -> Score:
    """Return what scores with a skops file; raise Failure if it holds types that nobody trusts."""
    fitted = load(path)
    threads = ThreadpoolController()  # of the libraries that came with the model

    def score(columns: Columns) -> Floats:
        with threads.limit(limits=1):  # small batches lose more to threads than they gain
            return scores(fitted, pd.DataFrame(dict(columns)), schema)

    return score
