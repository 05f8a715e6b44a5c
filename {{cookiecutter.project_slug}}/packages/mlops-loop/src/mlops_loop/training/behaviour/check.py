"""How the tests of behaviour.yaml come out on a model."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from mlops_loop.base.files import BEHAVIOUR
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Value
from mlops_loop.data.derived import derive
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.values import Scores
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.predictions import labels
from mlops_loop.training.behaviour.declaration import (
    AnyCase,
    Behaviour,
    Condition,
    Invariance,
    Minimum,
    Range,
)

COLUMNS = ["test", "kind", "rows", "measure", "value", "limit", "passed"]


def check(
    behaviour: Behaviour,
    table: pd.DataFrame,
    predict: Callable[[pd.DataFrame], Scores],
    schema: Schema,
    rows: int = 1000,
    operating_point: OperatingPoint = OperatingPoint(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Return how each test came out on at most `rows` rows of the table, always the same.

    `predict` gives a table's scores: probabilities, shape (rows, classes), or values, shape (rows,
    1). A test passes if `value` is at least `limit`; where no row fits it, there is no value.
    """
    found = []
    for case in behaviour.cases:
        before, after = pick(case, table, schema, rows)
        kind = type(case).__name__.lower()
        value = passed = None
        if len(after):
            scores = predict(after)
            moved = scores if isinstance(case, Minimum) else scores - predict(before)
            value = judge(case, moved, schema, operating_point)
            passed = value >= case.limit
        measure = case.measure
        found.append((case.name, kind, len(after), measure, value, case.limit, passed))
    return pd.DataFrame(found, columns=COLUMNS).astype({"value": float, "passed": object})


def pick(
    case: AnyCase, table: pd.DataFrame, schema: Schema, rows: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return random rows that the test is about, before and after what it changes in them."""
    names = list({**schema.inputs, **schema.features})
    if isinstance(case, Minimum) and case.row is not None:
        row = changed(pd.DataFrame(columns=names, index=[0]), case.row, schema)
        return row, row
    wanted = np.ones(len(table), dtype=bool)
    for name, asked in case.where.items():
        wanted &= matches(table[name], asked)
    before = changed(table.loc[wanted, names], case.given, schema)
    added = {} if isinstance(case, Minimum) else case.add
    for name, amount in added.items():
        before = before[(before[name] + amount).between(*schema.columns[name].limits)]
    before = before.sample(min(rows, len(before)), random_state=0)
    moved = {name: before[name] + amount for name, amount in added.items()}
    return before, changed(before, {**case.set, **moved}, schema)


def matches(values: pd.Series, asked: Condition) -> pd.Series:
    """Return which values are among those that a condition asks for."""
    if isinstance(asked, Range):
        return values.between(asked.minimum, asked.maximum).fillna(False).astype(bool)
    listed = asked if isinstance(asked, list) else [asked]
    found = values.isin([value for value in listed if value is not None])
    return found | (values.isna() & (None in listed))


def changed(
    rows: pd.DataFrame, values: Mapping[str, Value | pd.Series], schema: Schema
) -> pd.DataFrame:
    """Return rows with other values; derived columns follow, unless they are given."""
    after = rows.copy()
    for name in values:
        is_time = schema.columns[name].type == "timestamp"
        after[name] = pd.Timestamp(values[name]) if is_time else values[name]
    if schema.derived and len(after) and not schema.inputs.keys().isdisjoint(values):
        for name, column in derive(after, schema).items():
            after[name] = values.get(name, column)
    return after


def judge(case: AnyCase, scores: Scores, schema: Schema, point: OperatingPoint) -> float:
    """Return the share of rows, or the mean, that the test asks for; of a change by its effect."""
    if isinstance(case, Invariance):
        return float((np.abs(scores).max(axis=1) <= case.tolerance).mean())
    if isinstance(case, Minimum) and case.label is not None:
        return labels(scores, schema, point).count(case.label) / len(scores)
    score = scores[:, schema.classes.index(str(case.of)) if schema.classes else 0]
    if isinstance(case, Minimum):
        return float(((score >= case.minimum) & (score <= case.maximum)).mean())
    gain = score if case.expect == "rise" else -score
    return float(gain.mean() if case.share is None else (gain >= case.by).mean())


def gate_results(found: pd.DataFrame) -> list[GateResult]:
    """Return the outcomes as the gate `behaviour` gives them."""
    results = []
    for line in found.itertuples():
        gate = f"behaviour: {line.test}"
        if line.rows:
            results.append(compare(gate, line.measure, line.value, ">=", line.limit))
        else:
            results.append(GateResult(gate, f"{line.measure}: no row fits the test"))
    return results or [GateResult("behaviour", f"{BEHAVIOUR} declares no test")]
