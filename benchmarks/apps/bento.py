"""Bento: the pipeline as a BentoML service that takes a DataFrame."""

import bentoml
import numpy as np
import pandas as pd
from fitted import FACTS, TYPES, load


@bentoml.service(workers=1)
class Fitted:
    def __init__(self) -> None:
        self.score = getattr(load(), FACTS["method"])

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        return self.score(rows.astype(TYPES)).reshape(len(rows), -1)
