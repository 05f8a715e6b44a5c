"""Model: the estimator. This is the one file that a data scientist must edit."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from . import tasks
from .errors import Failure
from .params import Train
from .schema import Schema

# Types, beyond those that skops knows to be harmless, that a model file may contain. Reviewed:
# none runs code of its own when it is loaded. Add to this list only what you have read.
TRUSTED_TYPES = ["numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


def build(schema: Schema, params: Train) -> Pipeline:
    """Return the unfitted pipeline. Change this first."""
    numbers: Any = "passthrough"  # trees need no scaling, and learn from gaps
    known = [list(schema.columns[name].categories or ()) for name in schema.categorical]
    estimators, settings = tasks.of(schema).ESTIMATORS, getattr(params, params.model)
    if params.model not in estimators:
        knows = f"{schema.task} knows {', '.join(estimators)}"
        raise Failure(f"params.yaml: train.model: {params.model} does not fit the task: {knows}")
    if params.model == "gradient_boosting":
        encoder: Any = OrdinalEncoder(categories=known, handle_unknown="use_encoded_value", unknown_value=-1)
        settings = {"early_stopping": False} | settings
    else:
        numbers = make_pipeline(SimpleImputer(keep_empty_features=True, strategy="median"), StandardScaler())
        encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
    columns = [("numbers", numbers, schema.numeric), ("categories", encoder, schema.categorical)]
    used = [column for column in columns if column[2]]
    return make_pipeline(
        ColumnTransformer(used), estimators[params.model](random_state=params.seed, **settings)
    )


def inputs(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the features as the model takes them: numbers as float32, categories as text.

    float32 in training too, because the exported graph computes in it: both then take the same
    branch at every split. A missing category is an empty text.
    """
    numbers = table[schema.numeric].astype("float32")
    categories = table[schema.categorical].astype(object).fillna("")
    return pd.concat([numbers, categories], axis="columns")[list(schema.features)]


def round_thresholds(model: Pipeline) -> None:
    """Round the thresholds of boosted trees down to float32, as which the exported graph holds them.

    No float32 lies between a threshold and the next float32 below it, so no prediction changes. Rounded to
    the nearest, as the converter does, some would end up above a value that they were below.
    """
    for trees in getattr(model[-1], "_predictors", ()):
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            rounded = exact.astype("float32")
            down = np.nextafter(rounded, np.float32(-np.inf))
            tree.nodes["num_threshold"] = np.where(rounded > exact, down, rounded)


def scores(model: Pipeline, table: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Return probabilities, shape (rows, classes), or for a regression values, shape (rows, 1)."""
    rows = inputs(table, schema)
    found = model.predict_proba(rows) if schema.classes else model.predict(rows).reshape(-1, 1)
    return np.asarray(found)


def save(model: Pipeline, path: Path) -> None:
    """Write the model as skops, so that equal models give equal bytes.

    skops names objects by their memory address and stamps the time; we number them instead.
    """
    if hasattr(model[-1], "_bin_mapper"):
        model[-1]._bin_mapper.n_threads = 1  # a trace of the machine that matters for speed only
    source = zipfile.ZipFile(io.BytesIO(skops.io.dumps(model)))
    text = source.read("schema.json").decode()
    address = re.compile(r'(?<="__id__": )\d+|(?<=")\d+(?=\.npy")')
    numbers = {old: str(new) for new, old in enumerate(dict.fromkeys(address.findall(text)))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        text = address.sub(lambda found: numbers[found[0]], text)
        target.writestr(zipfile.ZipInfo("schema.json"), text)
        for old, new in numbers.items():
            if f"{old}.npy" in source.namelist():
                target.writestr(zipfile.ZipInfo(f"{new}.npy"), source.read(f"{old}.npy"))


def load(path: Path) -> Pipeline:
    """Return the model in a skops file; refuse types that nobody has reviewed."""
    try:
        if unknown := set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES):
            names = ", ".join(sorted(unknown))
            raise Failure(f"{path} contains {names}: review, then add to TRUSTED_TYPES in model.py")
        return skops.io.load(path, trusted=TRUSTED_TYPES)
    except (FileNotFoundError, zipfile.BadZipFile, KeyError):
        raise Failure(f"{path} is missing or corrupt: run `uv run dvc repro -f train`") from None
