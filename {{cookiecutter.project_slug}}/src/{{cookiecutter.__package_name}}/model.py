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
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

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
    if params.model == "gradient_boosting":
        encoder: Any = OrdinalEncoder(categories=known, handle_unknown="use_encoded_value", unknown_value=-1)
        settings = {"early_stopping": False, "random_state": params.seed}
        estimator: Any = HistGradientBoostingClassifier(**settings | params.gradient_boosting)
    else:
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        estimator = LogisticRegression(random_state=params.seed, **params.logistic_regression)
    columns = [("numbers", numbers, schema.numeric), ("categories", encoder, schema.categorical)]
    return make_pipeline(ColumnTransformer(columns), estimator)


def inputs(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the features as the model takes them: numbers as float32, categories as text.

    float32 in training too, because the exported graph computes in it: both then take the same
    branch at every split.
    """
    numbers = table[schema.numeric].astype("float32")
    categories = table[schema.categorical].astype(object).fillna("")
    return pd.concat([numbers, categories], axis="columns")[list(schema.features)]


def positive_probability(model: Pipeline, table: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Return the probability of the positive class for each row, shape (rows,)."""
    column = list(model.classes_).index(schema.positive)
    scores: np.ndarray = model.predict_proba(inputs(table, schema))[:, column]
    return scores


def save(model: Pipeline, path: Path) -> None:
    """Write the model as skops, so that equal models give equal bytes.

    skops names objects by their memory address and stamps the time; we number them instead.
    """
    if isinstance(model[-1], HistGradientBoostingClassifier):
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
