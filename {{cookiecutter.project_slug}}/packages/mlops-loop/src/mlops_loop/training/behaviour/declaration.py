"""What behaviour.yaml may say, checked against the contract: the context of each validation."""

from collections.abc import Iterator, Mapping
from datetime import date
from math import inf
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mlops_loop.base.config import read_yaml
from mlops_loop.base.files import BEHAVIOUR
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.data.cast import check_table

Info = ValidationInfo[Schema]


def single(value: object) -> Value:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, date):  # YAML has times of its own
        return value.isoformat()
    raise ValueError("give a number, a text, true, false or null")


class Range(BaseModel, extra="forbid"):
    minimum: float = Field(-inf, allow_inf_nan=False)
    maximum: float = Field(inf, allow_inf_nan=False)


Scalar = Annotated[Value, BeforeValidator(single)]
Condition = Annotated[
    Annotated[Range, Tag("range")]
    | Annotated[list[Scalar], Tag("list")]
    | Annotated[Scalar, Tag("value")],
    Discriminator(lambda given: {dict: "range", list: "list"}.get(type(given), "value")),
]


class Case(BaseModel, extra="forbid"):
    """A test of some rows."""

    name: str = Field(min_length=1)
    why: str = Field(min_length=1)
    where: dict[str, Condition] = {}  # which rows: all that have these values
    given: dict[str, Scalar] = {}  # set in each of them beforehand
    set: dict[str, Scalar] = {}  # what is changed
    share: float | None = Field(None, gt=0, le=1)  # of the rows that must pass, by default all

    @property
    def limit(self) -> float:
        return self.share or 1.0

    @model_validator(mode="after")
    def fits(self, info: Info) -> Self:
        for problem in self.problems(info.context):
            raise ValueError(problem)
        return self

    def problems(self, schema: Schema) -> Iterator[str]:
        """Yield what does not fit the contract, or each other."""
        columns = {**schema.inputs, **schema.features}
        sliced = columns | {name: schema.columns[name] for name in schema.slices}
        for name, asked in self.where.items():
            yield from misfits(name, asked, sliced)
        for name, value in (*self.given.items(), *self.set.items()):
            yield from misfits(name, value, columns)

    @field_validator("of", check_fields=False)
    @classmethod
    def has_a_score(cls, name: str | None, info: Info) -> str | None:
        """Return the class whose probability is meant, or a regression's target."""
        schema = info.context
        if not schema.classes and name is not None:
            raise ValueError("a regression has no classes: leave it out")
        of = name or schema.positive
        if schema.classes and of not in schema.classes and info.data.get("label") is None:
            raise ValueError(f"name the class whose probability is meant: one of {schema.classes}")
        return of or schema.target


class Change(Case):
    """A test of what a change of the rows does to their scores."""

    add: dict[str, float] = {}  # rows that the contract would then forbid are left out

    def problems(self, schema: Schema) -> Iterator[str]:
        yield from super().problems(schema)
        if not (self.set or self.add):
            yield "nothing is changed: say what to `set` or to `add`"
        for name, amount in self.add.items():
            yield from misfits(name, Range(), {**schema.inputs, **schema.features})
            if schema.columns[name].type == "integer" and not amount.is_integer():
                yield f"{name!r} is an integer: {amount:g} cannot be added to it"
            if name in self.set:
                yield f"{name!r} is both set and added to"


class Invariance(Change):
    """The change must not move a score by more than `tolerance`, in this share of the rows."""

    tolerance: float = Field(ge=0, allow_inf_nan=False)

    @property
    def measure(self) -> str:
        return f"share of rows that move by at most {self.tolerance:g}"


class Directional(Change):
    """The change must move the score of a class, or the value, by at least `by`.

    That is meant on average or, if there is a `share`, in each of so many rows.
    """

    expect: Literal["rise", "fall"]
    of: str | None = Field(None, validate_default=True)  # a class; by default the positive one
    by: float = Field(ge=0, allow_inf_nan=False)

    @property
    def limit(self) -> float:
        return self.share or self.by

    @property
    def measure(self) -> str:
        if self.share is None:
            return f"mean {self.expect} of {self.of}"
        least = f" by at least {self.by:g}" if self.by else ", or none"
        return f"share of rows with a {self.expect} of {self.of}{least}"


class Minimum(Case):
    """Rows, or the one `row`, that must get this label, or a score within these limits."""

    row: dict[str, Scalar] | None = None
    label: str | None = None
    of: str | None = Field(None, validate_default=True)
    minimum: float = Field(-inf, allow_inf_nan=False)
    maximum: float = Field(inf, allow_inf_nan=False)

    def problems(self, schema: Schema) -> Iterator[str]:
        yield from super().problems(schema)
        if (self.label is None) == ((self.minimum, self.maximum) == (-inf, inf)):
            limits = "the score's `minimum` and `maximum`"
            yield f"say either which `label` is right, or {limits}"
        if self.label not in (None, *schema.classes):
            yield f"{self.label!r} is none of the classes {schema.classes}"
        if self.row is None:
            return
        for name, value in self.row.items():
            yield from misfits(name, value, {**schema.inputs, **schema.features})
        for name, column in schema.inputs.items():
            if name not in self.row and not column.nullable:
                yield f"required input {name!r} is missing"
        if self.where or self.given or self.set:
            others = "`where`, `given` and `set` do not go with it"
            yield f"`row` is a row of its own: {others}"

    @property
    def measure(self) -> str:
        if self.label is not None:
            return f"share of rows that are called {self.label}"
        limits = {"at least": self.minimum, "at most": self.maximum}
        asked = [f"{word} {limit:g}" for word, limit in limits.items() if abs(limit) < inf]
        return f"share of rows with {self.of} {' and '.join(asked)}"


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


def misfits(name: str, asked: Condition, columns: Mapping[str, Column]) -> Iterator[str]:
    """Yield why a column cannot have such values, if it cannot."""
    column = columns.get(name)
    if column is None:
        yield f"schema.yaml has no feature {name!r}"
    elif not isinstance(asked, Range):
        for value in asked if isinstance(asked, list) else [asked]:
            given = float(value) if type(value) is int else value  # Arrow has no larger integers
            _, (reason,) = check_table(pa.table({name: [given]}), {name: column})
            if reason:
                yield f"{value!r} breaks the contract: {reason}"
    elif column.type not in ("number", "integer"):
        yield f"{name!r} is of type {column.type}, not a number"
    elif max(asked.minimum, column.limits[0]) > min(asked.maximum, column.limits[1]):
        yield f"no value of {name!r} is in that range"


def load_behaviour(schema: Schema) -> Behaviour:
    """Return the tests of behaviour.yaml; a mistake, or what the contract lacks, is a Failure."""
    return read_yaml(BEHAVIOUR, Behaviour, schema)
