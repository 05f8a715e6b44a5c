"""Scikit-learn scorer: for models that ONNX cannot express. Only this module needs scikit-learn to serve."""

from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from .. import model
from ..schema import Schema
from .scorer import Columns, Scores


def open_model(path: Path, schema: Schema) -> Scores:
    """Return what scores with a skops file; raise Failure if it holds types that nobody has reviewed."""
    fitted = model.load(path)
    threads = ThreadpoolController()  # after the model, which brings the libraries that have threads

    def scores(columns: Columns) -> np.ndarray:
        with threads.limit(limits=1):  # small batches lose more to threads than they gain
            return model.scores(fitted, pd.DataFrame(dict(columns)), schema)

    return scores
