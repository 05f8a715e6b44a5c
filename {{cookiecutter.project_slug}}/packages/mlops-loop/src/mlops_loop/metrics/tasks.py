"""Tasks: one module for each kind of prediction; `of` gives the one that the contract names.

Each has the same names. Scores are the model's raw output: probabilities of shape (rows, classes)
in the order of `schema.classes`, or values of shape (rows, 1).

GATES       metrics that promotion looks at, and whether more is better; the first decides
SLICES      limits of the slices, as `schema infer` sets them in params.yaml
QUALITY     the metric that a slice is judged by, from `quality`; GAP says what `gap` is
MISCALIBRATION  what `miscalibration` is
OBJECTIVE   the metric that `tune` minimises, computed by `loss`
PLOTS       what dvc.yaml plots
PREDICTION  what kind of column the monitor sees: numerical or categorical
truth       the target of each row, as the other functions take it
baseline    naive scores: what was usual in training, by a column or at all
decide      what turns scores into answers, chosen on the validation window
measure     metrics of scores
statistic   some of them as a function of the rows' weights, to be resampled
quality     how good scores are on a slice, as such a function; `gap`: how far below the whole it is
miscalibration  how far promises are from what is observed; `draw`: truths that keep the promises
by_slice    the few metrics that are shown for each slice
plots       pictures, and the tables behind them
predictions one value for each row, for the monitor; `logged` gets it from a logged answer
ANSWERS     a sentence for the model card
"""

from typing import Any

from mlops_loop.contract.schema import Schema
from mlops_loop.contract.task import Task
from mlops_loop.metrics import binary_classification, multiclass_classification, regression

TASKS: dict[Task, Any] = {
    "binary-classification": binary_classification,
    "multiclass-classification": multiclass_classification,
    "regression": regression,
}


def of(schema: Schema) -> Any:
    """Return the task that the contract names."""
    return TASKS[schema.task]
