"""Derived features. Change `derive()` to compute some, in training and in the server alike."""

from collections.abc import Mapping

import numpy as np


def derive(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns that schema.yaml declares as `derived`, each row's from that row alone.

    `columns` has the inputs of schema.yaml: numbers as float32 with NaN, categories as str or None,
    booleans as bool, times as datetime64[s] without a zone. Not called if none is declared.
    """
    raise NotImplementedError("compute the columns that schema.yaml declares as derived")
