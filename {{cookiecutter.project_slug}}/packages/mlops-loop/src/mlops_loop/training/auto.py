"""`train.model: auto`: compare the project's candidates, and take the one that predicts best."""

import pandas as pd
from pydantic import BaseModel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_loop.base import files, project
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import COMPARISON
from mlops_loop.base.params import AUTO, TrainParams
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.training.cross_validation import folds, loss

ROWS = 20_000  # compared on, at most: enough to tell candidates apart in seconds


class Comparison(BaseModel, frozen=True):
    """What reports/comparison.json holds; without losses if params.yaml names the estimator."""

    chosen: str  # a name that model.py knows
    metric: str = ""
    rows: int = 0
    losses: dict[str, float] = {}  # of each candidate, the simplest first: less is better

    @property
    def text(self) -> str:
        """The comparison as lines for people."""
        if not self.losses:
            return f"{AUTO} is {self.chosen}: there are too few rows to compare"
        width = max(map(len, self.losses))
        lines = [f"{AUTO} compares by cross-validation on {self.rows:,} rows, {self.metric}:"]
        for name, value in self.losses.items():
            mark = "  <- chosen" if name == self.chosen else ""
            lines.append(f"  {name:{width}} {value:.5g}{mark}")
        return "\n".join(lines)

    @property
    def table(self) -> pd.DataFrame:
        """The comparison as the model card shows it."""
        return pd.DataFrame({"candidate": list(self.losses), self.metric: self.losses.values()})

    def params(self, given: TrainParams) -> TrainParams:
        """Return parameters that name the chosen estimator."""
        return given.model_copy(update={"model": self.chosen})


def compare(table: pd.DataFrame, schema: Schema, params: TrainParams) -> Comparison:
    """Return how the candidates do on rows that they were not trained on; the best is chosen.

    Of equally good ones it is the simpler. With too few rows to compare it is the simplest that
    learns anything.
    """
    if params.model != AUTO:
        return Comparison(chosen=params.model)
    names = project.required("candidates")(schema)
    sample = table.loc[tables.sample_mask(len(table), ROWS, params.seed)]
    try:
        parts = folds(sample, schema, params.seed)
    except Failure:
        return Comparison(chosen=names[min(1, len(names) - 1)])
    losses = {}
    with threadpool_limits(1):  # on few rows threads cost more than they gain
        for name in names:
            candidate = params.model_copy(update={"model": name})
            # In six digits: the last ones may differ from machine to machine.
            losses[name] = float(f"{loss(sample, parts, schema, candidate):.6g}")
    return Comparison(
        chosen=min(losses, key=losses.__getitem__),
        metric=tasks.of(schema).OBJECTIVE,
        rows=len(sample),
        losses=losses,
    )


def load_comparison() -> Comparison:
    return Comparison.model_validate(files.read_json(COMPARISON))
