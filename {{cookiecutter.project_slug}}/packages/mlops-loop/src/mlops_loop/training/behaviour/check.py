"""How the tests of behaviour.yaml come out on a model."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_loop.base.files import BEHAVIOUR
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Value
from mlops_loop.data.derived import derive
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.values import Scores
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.predictions import labels
from mlops_loop.training.behaviour.declaration import (
    Behaviour,
    Case,
    Change,
    Condition,
    Directional,
    Invariance,
    Minimum,
    Range,
)

Predict = Callable[[pd.DataFrame], Scores]
Values = Mapping[str, Value | pd.Series]  # of columns
COLUMNS = ["test", "kind", "rows", "measure", "value", "limit", "passed"]


@dataclass(frozen=True)
class Outcome:
    """How a test came out: it passes if `value` is at least `limit`."""

    test: str
    kind: str
    rows: int
    measure: str
    value: float | None  # None: no row fits the test
    limit: float

    @property
    def passed(self) -> bool | None:
        return None if self.value is None else self.value >= self.limit


def check(
    behaviour: Behaviour,
    table: pd.DataFrame,
    predict: Predict,
    schema: Schema,
    rows: int = 1000,
    operating_point: OperatingPoint = OperatingPoint(),  # noqa: B008 (it is frozen)
) -> list[Outcome]:
    """Return how each test came out on at most `rows` rows of the table, always the same.

    `predict` gives a table's scores: probabilities, shape (rows, classes), or values, shape (rows,
    1).
    """
    found = []
    for case in behaviour.cases:
        before = pick(case, table, schema, rows)
        after = changed(before, changes(case, before), schema)
        if isinstance(case, Minimum):
            result = functionality(case, after, predict, schema, operating_point)
        else:
            result = effect(case, before, after, predict, schema)
        kind = next(kind for kind in Behaviour.model_fields if case in getattr(behaviour, kind))
        found.append(Outcome(case.name, kind, len(after), *result))
    return found


def changes(case: Invariance | Directional | Minimum, rows: pd.DataFrame) -> Values:
    """Return the columns that a test changes, with their new values."""
    added = case.add if isinstance(case, Change) else {}
    return {**case.set, **{name: rows[name] + amount for name, amount in added.items()}}


def changed(rows: pd.DataFrame, values: Values, schema: Schema) -> pd.DataFrame:
    """Return rows with other values; derived columns follow, unless they are given."""
    inputs = {name: value for name, value in values.items() if name in schema.inputs}
    for name in inputs:
        if schema.columns[name].type == "timestamp":
            inputs[name] = pd.Timestamp(inputs[name])
    after = rows.assign(**inputs)
    if inputs and schema.derived and len(after):
        after = after.assign(**derive(after, schema))
    return after.assign(**{name: value for name, value in values.items() if name not in inputs})


def as_table(found: list[Outcome]) -> pd.DataFrame:
    """Return the outcomes as reports show them."""
    rows = [
        {**asdict(line), "limit": f">= {line.limit:g}", "passed": line.passed} for line in found
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float, "passed": object})


def gate_results(found: list[Outcome]) -> list[GateResult]:
    """Return the outcomes as the gate `behaviour` gives them."""
    if not found:
        return [GateResult("behaviour", f"{BEHAVIOUR} declares no test")]
    return [
        GateResult(f"behaviour: {line.test}", f"{line.measure}: no row fits the test")
        if line.value is None
        else compare(f"behaviour: {line.test}", line.measure, line.value, ">=", line.limit)
        for line in found
    ]


def pick(case: Case, table: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return random rows that the test is about, with what is given set."""
    names = list({**schema.inputs, **schema.features})
    if isinstance(case, Minimum) and case.row is not None:
        return changed(pd.DataFrame(columns=names, index=[0]), case.row, schema)
    wanted = np.ones(len(table), dtype=bool)
    for name, asked in case.where.items():
        wanted &= matches(table[name], asked)
    picked = changed(table.loc[wanted, names], case.given, schema)
    for name, amount in case.add.items() if isinstance(case, Change) else ():
        low, high = schema.columns[name].limits
        picked = picked[
            matches(picked[name] + amount, Range.model_construct(minimum=low, maximum=high))
        ]
    return picked.sample(min(rows, len(picked)), random_state=0)


def matches(values: pd.Series, asked: Condition) -> NDArray[np.bool_]:
    """Return which values are among those that a condition asks for: booleans, shape (rows,)."""
    if isinstance(asked, Range):
        found = (values >= asked.minimum) & (values <= asked.maximum)
    else:
        listed = asked if isinstance(asked, list) else [asked]
        found = values.isin([value for value in listed if value is not None])
        found |= values.isna() & (None in listed)
    return np.asarray(found.fillna(False), dtype=bool)


def effect(
    case: Invariance | Directional,
    before: pd.DataFrame,
    after: pd.DataFrame,
    predict: Predict,
    schema: Schema,
) -> tuple[str, float | None, float]:
    """Return what is measured of a change, its value (None: no row fits), and its limit."""
    if isinstance(case, Invariance):
        measure = f"share of rows that move by at most {case.tolerance:g}"
        limit = case.share
    elif case.share is None:
        measure = f"mean {case.expect} of {case.of or schema.target}"
        limit = case.by
    else:
        measure = f"share of rows with a {case.expect} of {case.of or schema.target}"
        limit = case.share
        measure += f" by at least {case.by:g}" if case.by else ", or none"
    if before.empty:
        return measure, None, limit
    moved = predict(after) - predict(before)
    if isinstance(case, Invariance):
        return measure, float((np.abs(moved).max(axis=1) <= case.tolerance).mean()), limit
    gain = moved[:, place(case.of, schema)] * (1 if case.expect == "rise" else -1)
    return measure, float(gain.mean() if case.share is None else (gain >= case.by).mean()), limit


def functionality(
    case: Minimum,
    rows: pd.DataFrame,
    predict: Predict,
    schema: Schema,
    operating_point: OperatingPoint,
) -> tuple[str, float | None, float]:
    """Return what is measured of the rows, its value (None: there is no row), and its limit."""
    limits = {"at least": case.minimum, "at most": case.maximum}
    asked = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
    measure = f"share of rows with {case.of or schema.target} {asked}"
    measure = measure if case.label is None else f"share of rows that are called {case.label}"
    if rows.empty:
        return measure, None, case.share
    scores = predict(rows)
    if case.label is not None:
        named = labels(scores, schema, operating_point)
        right = np.array([label == case.label for label in named])
    else:
        score = scores[:, place(case.of, schema)]
        right = np.ones(len(score), dtype=bool) if case.minimum is None else score >= case.minimum
        right = right if case.maximum is None else right & (score <= case.maximum)
    return measure, float(right.mean()), case.share


def place(name: str | None, schema: Schema) -> int:
    """Return the column of the scores that belongs to a class, or to a regression's value."""
    return 0 if name is None else schema.classes.index(name)
