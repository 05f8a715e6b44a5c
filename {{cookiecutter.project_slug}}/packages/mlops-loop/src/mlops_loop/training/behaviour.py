"""Behaviour: the tests of behaviour.yaml, what they may say, and how they come out on a model.

Three kinds, after Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList,
ACL 2020: invariance, directional expectation and minimum functionality.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date
from math import inf
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, model_validator

from mlops_loop.base.config import PositiveShare, read_yaml
from mlops_loop.base.files import BEHAVIOUR
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.data.cast import check_table
from mlops_loop.data.derived import derive
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.metrics.values import Scores
from mlops_loop.reporting import page
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.predictions import labels

COLUMNS = ["test", "kind", "rows", "measure", "value", "limit", "passed"]
Text = Annotated[str, Field(min_length=1)]
Least = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def as_value(given: object) -> object:
    return given.isoformat() if isinstance(given, date) else given  # YAML has times of its own


Scalar = Annotated[Value, BeforeValidator(as_value)]


class Range(BaseModel, extra="forbid"):
    minimum: float = Field(-inf, allow_inf_nan=False)
    maximum: float = Field(inf, allow_inf_nan=False)


Condition = Range | list[Scalar] | Scalar


class Case(BaseModel, extra="forbid"):
    """A test of some rows, and of what a change of them does to their scores."""

    name: Text
    why: Text
    where: dict[str, Condition] = {}  # which rows: all that have these values
    given: dict[str, Scalar] = {}  # set in each of them beforehand
    set: dict[str, Scalar] = {}  # what is changed
    add: dict[str, float] = {}  # rows that the contract would then forbid are left out
    share: PositiveShare | None = None  # of the rows that must pass, by default all
    of: str | None = None  # a class; by default the positive one

    @model_validator(mode="after")
    def fits(self, info: ValidationInfo[Schema]) -> Self:
        """Refuse what does not fit the contract, which is the context."""
        schema = info.context
        columns = {**schema.inputs, **schema.features}
        check_values(self.where, columns | {name: schema.columns[name] for name in schema.slices})
        for asked in (self.given, self.set, dict.fromkeys(self.add, Range())):
            check_values(asked, columns)
        for name, amount in self.add.items():
            if columns[name].type == "integer" and not amount.is_integer():
                raise ValueError(f"{name!r} is an integer: {amount:g} cannot be added to it")
            if name in self.set:
                raise ValueError(f"{name!r} is both set and added to")
        if not (self.set or self.add or isinstance(self, Minimum)):
            raise ValueError("nothing is changed: say what to `set` or to `add`")
        self.of = self.of or schema.positive
        labelled = isinstance(self, Minimum) and self.label is not None
        about_a_class = bool(schema.classes) and not labelled and not isinstance(self, Invariance)
        if about_a_class and self.of not in schema.classes:
            raise ValueError(f"name the class whose probability is meant: one of {schema.classes}")
        if self.of and not schema.classes:
            raise ValueError("a regression has no classes: leave `of` out")
        return self


class Invariance(Case):
    """The change must not move a score by more than `tolerance`, in this share of the rows."""

    tolerance: Least


class Directional(Case):
    """The change must move the score, or value, by this on average, or in a `share` of the rows."""

    expect: Literal["rise", "fall"]
    by: Least


class Minimum(Case):
    """Rows that must get this label, or a score within these limits."""

    label: str | None = None
    minimum: float = Field(-inf, allow_inf_nan=False)
    maximum: float = Field(inf, allow_inf_nan=False)

    @model_validator(mode="after")
    def has_an_answer(self, info: ValidationInfo[Schema]) -> Self:
        if (self.label is None) == ((self.minimum, self.maximum) == (-inf, inf)):
            limits = "the score's `minimum` and `maximum`"
            raise ValueError(f"say either which `label` is right, or {limits}")
        if self.label not in (None, *info.context.classes):
            raise ValueError(f"{self.label!r} is none of the classes {info.context.classes}")
        return self


AnyCase = Invariance | Directional | Minimum


class Behaviour(BaseModel, extra="forbid"):
    """What behaviour.yaml declares."""

    invariance: list[Invariance] = []
    directional: list[Directional] = []
    minimum: list[Minimum] = []

    @property
    def cases(self) -> list[AnyCase]:
        return [*self.invariance, *self.directional, *self.minimum]

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        names = [case.name for case in self.cases]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise ValueError(f"two tests are called {twice[0]!r}")
        return self


def check_values(asked: Mapping[str, Condition], columns: Mapping[str, Column]) -> None:
    """Refuse columns that cannot have such values."""
    for name, wanted in asked.items():
        if (column := columns.get(name)) is None:
            raise ValueError(f"schema.yaml has no feature {name!r}")
        if isinstance(wanted, Range):
            if column.type not in ("number", "integer"):
                raise ValueError(f"{name!r} is of type {column.type}, not a number")
            low, high = column.limits
            if max(wanted.minimum, low) > min(wanted.maximum, high):
                raise ValueError(f"no value of {name!r} is in that range")
            continue
        for value in wanted if isinstance(wanted, list) else [wanted]:
            given = float(value) if type(value) is int else value  # Arrow has no larger integers
            _, (reason,) = check_table(pa.table({name: [given]}), {name: column})
            if reason:
                raise ValueError(f"{value!r} breaks the contract: {reason}")


def load_behaviour(schema: Schema) -> Behaviour:
    """Return the tests of behaviour.yaml; a mistake, or what the contract lacks, is a Failure."""
    return read_yaml(BEHAVIOUR, Behaviour, schema)


def check(
    behaviour: Behaviour,
    table: pd.DataFrame,
    predict: Callable[[pd.DataFrame], Scores],
    schema: Schema,
    rows: int,
    point: OperatingPoint,
) -> pd.DataFrame:
    """Return how each test came out on at most `rows` rows of the table, always the same.

    `predict` gives a table's scores: probabilities, shape (rows, classes), or values, shape (rows,
    1). A test passes if `value` is at least `limit`; where no row fits it, there is no value.
    """
    found = []
    for case in behaviour.cases:
        before, after = pick(case, table, schema, rows)
        measure, limit = expectation(case, schema)
        value = passed = None
        if len(after):
            moved = outcomes(case, predict(before), predict(after), schema, point)
            value = float(moved.mean())
            passed = value >= limit
        kind = type(case).__name__.lower()
        found.append((case.name, kind, len(after), measure, value, limit, passed))
    return pd.DataFrame(found, columns=COLUMNS).astype({"value": float, "passed": object})


def expectation(case: AnyCase, schema: Schema) -> tuple[str, float]:
    """Return what is measured of the rows, and how much of it there must be at least."""
    share = case.share or 1.0
    of = case.of or schema.target
    if isinstance(case, Invariance):
        return f"share of rows that move by at most {case.tolerance:g}", share
    if isinstance(case, Directional):
        if case.share is None:
            return f"mean {case.expect} of {of}", case.by
        least = f" by at least {case.by:g}" if case.by else ", or none"
        return f"share of rows with a {case.expect} of {of}{least}", share
    if case.label is not None:
        return f"share of rows that are called {case.label}", share
    limits = {"at least": case.minimum, "at most": case.maximum}
    asked = [f"{word} {limit:g}" for word, limit in limits.items() if abs(limit) < inf]
    return f"share of rows with {of} {' and '.join(asked)}", share


def outcomes(
    case: AnyCase, before: Scores, after: Scores, schema: Schema, point: OperatingPoint
) -> NDArray[np.bool_ | np.float64]:
    """Return for each row whether it passes or, of a test of the mean, by how much it moves."""
    if isinstance(case, Invariance):
        return np.asarray(np.abs(after - before).max(axis=1) <= case.tolerance)
    if isinstance(case, Minimum) and case.label is not None:
        return np.asarray(np.array(labels(after, schema, point)) == case.label)
    place = schema.classes.index(str(case.of)) if schema.classes else 0
    if isinstance(case, Minimum):
        return (after[:, place] >= case.minimum) & (after[:, place] <= case.maximum)
    gain = (after - before)[:, place] * (1 if case.expect == "rise" else -1)
    return gain if case.share is None else gain >= case.by


def pick(
    case: AnyCase, table: pd.DataFrame, schema: Schema, rows: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return random rows that the test is about, before and after what it changes in them."""
    wanted = np.ones(len(table), dtype=bool)
    for name, asked in case.where.items():
        wanted &= matches(table[name], asked)
    before = changed(
        table.loc[wanted, list({**schema.inputs, **schema.features})], case.given, schema
    )
    for name, amount in case.add.items():
        before = before[(before[name] + amount).between(*schema.columns[name].limits)]
    before = before.sample(min(rows, len(before)), random_state=0)
    moved = {name: before[name] + amount for name, amount in case.add.items()}
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


def gate_results(found: pd.DataFrame) -> list[GateResult]:
    """Return the outcomes as the gate `behaviour` gives them."""
    results = []
    for line in found.itertuples():
        gate = f"behaviour: {line.test}"
        none = GateResult(gate, f"{line.measure}: no row fits the test")
        judged = compare(gate, line.measure, line.value, ">=", line.limit)
        results.append(judged if line.rows else none)
    return results or [GateResult("behaviour", f"{BEHAVIOUR} declares no test")]


def without_tests(schema: Schema) -> str:
    """Return a behaviour.yaml that declares no test, with an example of each kind as a comment."""
    name, column = next(iter(schema.features.items()))
    low, high = schema.columns[schema.target].limits
    unit = 1 if schema.classes else high - low  # of scores
    scored = schema.positive or next(iter(schema.classes), None)
    value = {"boolean": True, "category": (column.categories or ("",))[-1]}
    text = page.environment(autoescape=False).get_template("behaviour.yaml.j2")
    return (
        text.render(
            column=json.dumps(name),  # all JSON is YAML
            value=json.dumps(value.get(column.type, column.limits[0])),
            tolerance=0.05 * unit,
            of=f"#     of: {json.dumps(scored)}\n" if scored else "",
            by=0.01 * unit,
            right=f"label: {json.dumps(scored)}" if scored else f"minimum: {low}",
        )
        + "\n"
    )
