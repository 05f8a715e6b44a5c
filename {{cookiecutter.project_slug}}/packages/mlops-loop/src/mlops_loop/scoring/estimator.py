"""The estimator that was fitted: its name and its own parameters, whatever params.yaml calls it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlops_loop.contract.values import Value
from mlops_loop.scoring.manifest import Estimator

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def describe(model: Pipeline) -> Estimator:
    """Return what the last step of a pipeline is; the same for equal models, in any process."""
    last = model[-1]
    params = last.get_params(deep=False).items()
    return Estimator(type(last).__name__, {name: plain(value) for name, value in sorted(params)})


def plain(value: object) -> Value:
    """Return a parameter as JSON has it; an object by its name, as its address says nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return str([plain(part) for part in value])
    if isinstance(value, dict):
        return str(value)
    return str(getattr(value, "__qualname__", type(value).__name__))
