"""Behaviour: what the model must do whatever its metrics, as behaviour.yaml declares it.

Three kinds of test, after Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with
CheckList, ACL 2020: invariance, directional expectation and minimum functionality.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from mlops_loop.base.config import read_yaml
from mlops_loop.base.files import BEHAVIOUR
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.data.cast import check_rows
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.predictions import labels

Info = Any  # pydantic's ValidationInfo; its context is the Schema
Predict = Callable[[pd.DataFrame], np.ndarray]
COLUMNS = ["test", "kind", "rows", "measure", "value", "limit", "passed"]
NUMBERS = ("number", "integer")
HEAD = """\
# What the model must do, whatever its metrics. `promote` makes these tests on rows of the newest window.
#
# invariance   what must not matter: the score moves by at most `tolerance`, in this `share` of the rows
# directional  what must matter: the score of a class, or the value, rises or falls by so much on average,
#              or in a `share` of the rows
# minimum      what any model must get right: a label, or a score within limits, in a `share` of the rows
#
# where: which rows; given: set in them beforehand; set, add: what is changed. Source of the idea: Ribeiro
# et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList, ACL 2020.
"""


def single(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    raise ValueError("give a number, a text, true, false or null")


def form(condition: Any) -> str:
    return (
        "range"
        if isinstance(condition, dict)
        else "list"
        if isinstance(condition, list)
        else "value"
    )


class Range(BaseModel, extra="forbid"):
    minimum: float = Field(-np.inf, allow_inf_nan=False)
    maximum: float = Field(np.inf, allow_inf_nan=False)


Value = Annotated[Any, AfterValidator(single)]
Condition = Annotated[
    Annotated[Range, Tag("range")]
    | Annotated[list[Value], Tag("list")]
    | Annotated[Value, Tag("value")],
    Discriminator(form),
]


class Case(BaseModel, extra="forbid"):
    """A test; the contract that it is checked against is the validation's context."""

    name: str = Field(min_length=1)
    why: str = Field(min_length=1)
    where: dict[str, Condition] = {}  # which rows: all that have these values
    given: dict[str, Value] = {}  # set in each of them beforehand

    @field_validator("where", "given", "set", "row", check_fields=False)
    @classmethod
    def fits_the_contract(cls, found: dict[str, Any] | None, info: Info) -> dict[str, Any] | None:
        for name, wanted in (found or {}).items():
            column = known(name, info.context, sliced=info.field_name == "where")
            if isinstance(wanted, Range):
                numeric(name, column)
                if max(wanted.minimum, column.limits[0]) > min(wanted.maximum, column.limits[1]):
                    raise ValueError(f"no value of {name!r} is in that range")
                continue
            for value in wanted if isinstance(wanted, list) else [wanted]:
                _, (reason,) = check_rows(
                    pd.DataFrame({name: [value]}, dtype=object), {name: column}
                )
                if reason:
                    raise ValueError(f"{value!r} breaks the contract: {reason}")
        return found


class Change(Case):
    """A test of what a change of the rows does to their scores."""

    set: dict[str, Value] = {}
    add: dict[str, float] = {}  # rows that the contract would then forbid are left out

    @field_validator("add")
    @classmethod
    def can_be_added(cls, found: dict[str, float], info: Info) -> dict[str, float]:
        for name, amount in found.items():
            column = known(name, info.context)
            numeric(name, column)
            if column.type == "integer" and not float(amount).is_integer():
                raise ValueError(f"{name!r} is an integer: {amount:g} cannot be added to it")
        return found

    @model_validator(mode="after")
    def changes(self) -> Self:
        if not (self.set or self.add):
            raise ValueError("nothing is changed: say what to `set` or to `add`")
        if both := [name for name in self.set if name in self.add]:
            raise ValueError(f"{both[0]!r} is both set and added to")
        return self


class Invariance(Change):
    """The change must not move a score by more than `tolerance`, in this share of the rows."""

    tolerance: float = Field(ge=0, allow_inf_nan=False)
    share: float = Field(1.0, gt=0, le=1)


class Directional(Change):
    """The change must move the score of a class, or the value, by at least `by`.

    That is meant on average or, if there is a `share`, in each of so many rows.
    """

    expect: Literal["rise", "fall"]
    of: str | None = Field(None, validate_default=True)  # a class; by default the positive one
    by: float = Field(ge=0, allow_inf_nan=False)
    share: float | None = Field(None, gt=0, le=1)

    @field_validator("of")
    @classmethod
    def has_a_score(cls, name: str | None, info: Info) -> str | None:
        return scored(name, info.context)


class Minimum(Case):
    """Rows, or the one `row`, that must get this label, or a score within these limits."""

    row: dict[str, Value] | None = None
    set: dict[str, Value] = {}
    label: str | None = None
    of: str | None = Field(None, validate_default=True)
    minimum: float | None = Field(None, allow_inf_nan=False)
    maximum: float | None = Field(None, allow_inf_nan=False)
    share: float = Field(1.0, gt=0, le=1)

    @field_validator("row")
    @classmethod
    def is_whole(cls, row: dict[str, Any] | None, info: Info) -> dict[str, Any] | None:
        needed = {name for name, column in info.context.features.items() if not column.nullable}
        if row is not None and (missing := sorted(needed - set(row))):
            raise ValueError(f"the row lacks {missing[0]!r}, which the contract does not let it")
        return row

    @field_validator("label")
    @classmethod
    def is_a_class(cls, label: str | None, info: Info) -> str | None:
        if label is not None and label not in info.context.classes:
            raise ValueError(f"{label!r} is none of the classes {info.context.classes}")
        return label

    @field_validator("of")
    @classmethod
    def has_a_score(cls, name: str | None, info: Info) -> str | None:
        asked = info.data.get("label") is None
        return scored(name, info.context) if asked or name else None

    @model_validator(mode="after")
    def asks_for_something(self) -> Self:
        if (self.label is None) == (self.minimum is None and self.maximum is None):
            raise ValueError(
                "say either which `label` is right, or the score's `minimum` and `maximum`"
            )
        if self.row is not None and (self.where or self.given or self.set):
            raise ValueError(
                "`row` is a row of its own: `where`, `given` and `set` do not go with it"
            )
        return self


class Behaviour(BaseModel, extra="forbid"):
    """What behaviour.yaml declares."""

    invariance: list[Invariance] = []
    directional: list[Directional] = []
    minimum: list[Minimum] = []

    @property
    def cases(self) -> list[Invariance | Directional | Minimum]:
        return [*self.invariance, *self.directional, *self.minimum]

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        names = [case.name for case in self.cases]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise ValueError(f"two tests are called {twice[0]!r}")
        return self


def known(name: str, schema: Schema, sliced: bool = False) -> Column:
    """Return a feature's column; with `sliced`, columns by which the model is sliced are known too."""
    if name not in schema.features and not (sliced and name in schema.slices):
        raise ValueError(f"schema.yaml has no feature {name!r}")
    return schema.columns[name]


def numeric(name: str, column: Column) -> None:
    if column.type not in NUMBERS:
        raise ValueError(f"{name!r} is of type {column.type}, not a number")


def scored(name: str | None, schema: Schema) -> str | None:
    """Return the class whose probability is meant, None for a regression's value."""
    if not schema.classes and name is not None:
        raise ValueError("a regression has no classes: leave it out")
    if schema.classes and (name or schema.positive) not in schema.classes:
        raise ValueError(f"name the class whose probability is meant: one of {schema.classes}")
    return name or schema.positive


def load_behaviour(schema: Schema) -> Behaviour:
    """Return the tests of behaviour.yaml; a mistake, or what the contract lacks, is a Failure."""
    return read_yaml(BEHAVIOUR, Behaviour, schema)


def without_tests(schema: Schema) -> str:
    """Return a behaviour.yaml that declares no test, with an example of each kind as a comment."""
    tests = examples(schema)
    readable = "\\" not in str(tests)  # a line break within a name would end the comment
    look: Any = {
        "default_flow_style": None,
        "sort_keys": False,
        "allow_unicode": readable,
        "width": 100,
    }
    text = yaml.safe_dump(tests, **look)
    lines = "".join(f"# {line}\n" for line in text.splitlines())
    none = "".join(f"{kind}: []\n" for kind in Behaviour.model_fields)
    return f"{HEAD}#\n# For example, but say what is true in the world:\n#\n{lines}{none}"


def examples(schema: Schema) -> dict[str, Any]:
    """Return a test of each kind that fits the contract, made from the first columns of either sort."""
    features = schema.features
    numbers = [name for name, column in features.items() if column.type in NUMBERS]
    others = [name for name in features if name not in numbers]
    small, large = (others + numbers)[0], (numbers + others)[0]
    low, high = schema.columns[schema.target].limits
    right = {"label": schema.classes[0]} if schema.classes else {"minimum": low, "maximum": high}
    score = {"of": schema.positive or schema.classes[0]} if schema.classes else {}
    why = "Say here why this holds for any good model"
    return {
        "invariance": [
            {"name": "what must not matter", "why": why, **shift(small, features[small], 0.01)}
            | {"tolerance": 0.05 if schema.classes else (high - low) / 20, "share": 0.95}
        ],
        "directional": [
            {"name": "what must raise it", "why": why, **shift(large, features[large], 0.2)}
            | {"expect": "rise", **score, "by": 0.01 if schema.classes else (high - low) / 100}
        ],
        "minimum": [
            {
                "name": "a clear case",
                "why": why,
                "where": {small: first(features[small])},
                **right,
                "share": 0.9,
            }
        ],
    }


def first(column: Column) -> Any:
    """Return a value of the column, or a condition that all its values keep."""
    every = {"minimum": column.limits[0], "maximum": column.limits[1]}
    return {"category": (column.categories or ("",))[0], "boolean": True}.get(column.type, every)


def shift(name: str, column: Column, part: float) -> dict[str, Any]:
    """Return a change of a column: to another category, or by a part of the contract's range."""
    if column.type in NUMBERS:
        amount = float(f"{(column.limits[1] - column.limits[0]) * part:.1g}")
        return {"add": {name: max(1, round(amount)) if column.type == "integer" else amount}}
    values = [False, True] if column.type == "boolean" else (column.categories or ("",))
    return {"given": {name: values[0]}, "set": {name: values[-1]}}


def check(
    behaviour: Behaviour,
    table: pd.DataFrame,
    predict: Predict,
    schema: Schema,
    rows: int = 1000,
    operating_point: OperatingPoint = OperatingPoint(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Return how each test came out on at most `rows` random rows of the table, always the same ones.

    `predict` gives a table's scores: probabilities, shape (rows, classes), or values, shape (rows, 1).
    `operating_point` has the threshold of a binary classification's labels. A test that no row fits has neither value nor verdict.
    """
    found = []
    for case in behaviour.cases:
        if isinstance(case, Minimum):
            after = pick(case, table, schema, rows).assign(**case.set)
            measure, value, limit = functionality(case, after, predict, schema, operating_point)
        else:
            before = pick(case, table, schema, rows)
            after = before.assign(
                **case.set, **{name: before[name] + case.add[name] for name in case.add}
            )
            measure, value, limit = effect(case, before, after, predict, schema)
        kind = next(kind for kind in Behaviour.model_fields if case in getattr(behaviour, kind))
        passed = None if value is None else value >= limit
        found.append([case.name, kind, len(after), measure, value, f">= {limit:g}", passed])
    return pd.DataFrame(found, columns=COLUMNS).astype({"value": float, "passed": object})


def pick(case: Case, table: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return random rows that the test is about, with what is given set."""
    features = list(schema.features)
    if isinstance(case, Minimum) and case.row is not None:
        return pd.DataFrame([case.row]).reindex(columns=features)
    wanted = np.ones(len(table), dtype=bool)
    for name, asked in case.where.items():
        wanted &= matches(table[name], asked)
    picked = table.loc[wanted, features].assign(**case.given)
    for name, amount in case.add.items() if isinstance(case, Change) else ():
        low, high = schema.features[name].limits
        picked = picked[
            matches(picked[name] + amount, Range.model_construct(minimum=low, maximum=high))
        ]
    return picked.sample(min(rows, len(picked)), random_state=0)


def matches(values: pd.Series, asked: Any) -> np.ndarray:
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
    """Return what is measured of a change, its value (None if no row fits), and the least it may be."""
    if isinstance(case, Invariance):
        measure, limit = f"share of rows that move by at most {case.tolerance:g}", case.share
    elif case.share is None:
        measure, limit = f"mean {case.expect} of {case.of or schema.target}", case.by
    else:
        measure, limit = (
            f"share of rows with a {case.expect} of {case.of or schema.target}",
            case.share,
        )
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
    """Return what is measured of the rows, its value (None if there is no row), and the least it may be."""
    limits = {"at least": case.minimum, "at most": case.maximum}
    asked = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
    measure = f"share of rows with {case.of or schema.target} {asked}"
    measure = measure if case.label is None else f"share of rows that are called {case.label}"
    if rows.empty:
        return measure, None, case.share
    scores = predict(rows)
    if case.label is not None:
        facts = {
            "classes": schema.classes,
            "positive": schema.positive,
            "threshold": operating_point.threshold,
        }
        right = np.array([label == case.label for label in labels(scores, facts)])
    else:
        score = scores[:, place(case.of, schema)]
        right = np.ones(len(score), dtype=bool) if case.minimum is None else score >= case.minimum
        right = right if case.maximum is None else right & (score <= case.maximum)
    return measure, float(right.mean()), case.share


def place(name: str | None, schema: Schema) -> int:
    """Return the column of the scores that belongs to a class, or to a regression's value."""
    return 0 if name is None else schema.classes.index(name)


def verdicts(found: pd.DataFrame) -> list[GateResult]:
    """Return a verdict on each test that `check` made."""
    if found.empty:
        return [GateResult("behaviour", f"{BEHAVIOUR} declares no test", None, "", None)]
    return [
        GateResult(f"behaviour: {row.test}", row.measure, None, row.limit, None)
        if row.passed is None
        else GateResult(
            f"behaviour: {row.test}", row.measure, row.value, row.limit, bool(row.passed)
        )
        for row in found.itertuples()
    ]
