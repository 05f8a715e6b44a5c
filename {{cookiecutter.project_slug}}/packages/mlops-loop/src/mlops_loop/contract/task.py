"""The kinds of prediction."""

from typing import Literal

Task = Literal["binary-classification", "multiclass-classification", "regression"]
