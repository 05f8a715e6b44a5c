"""What behaviour.yaml may say, checked against the contract: the context of each validation."""

from datetime import date
from math import inf
from typing import Annotated, Literal, Self

import pandas as pd
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
from mlops_loop.data.cast import check_rows

Info = ValidationInfo[Schema]
NUMBERS = ("number", "integer")


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
Share = Annotated[float, Field(gt=0, le=1)]


class Case(BaseModel, extra="forbid"):
    """A test of some rows."""

    name: str = Field(min_length=1)
    why: str = Field(min_length=1)
    where: dict[str, Condition] = {}  # which rows: all that have these values
    given: dict[str, Scalar] = {}  # set in each of them beforehand
    set: dict[str, Scalar] = {}  # what is changed

    @field_validator("where", "given", "set", "row", check_fields=False)
    @classmethod
    def fits_the_contract(
        cls, found: dict[str, Condition] | None, info: Info
    ) -> dict[str, Condition] | None:
        for name, wanted in (found or {}).items():
            column = known(name, info.context, sliced=info.field_name == "where")
            if isinstance(wanted, Range):
                numeric(name, column)
                if max(wanted.minimum, column.limits[0]) > min(wanted.maximum, column.limits[1]):
                    raise ValueError(f"no value of {name!r} is in that range")
                continue
            for value in wanted if isinstance(wanted, list) else [wanted]:
                row = pd.DataFrame({name: [value]}, dtype=object)
                _, (reason,) = check_rows(row, {name: column})
                if reason:
                    raise ValueError(f"{value!r} breaks the contract: {reason}")
        return found

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

    @field_validator("add")
    @classmethod
    def can_be_added(cls, found: dict[str, float], info: Info) -> dict[str, float]:
        for name, amount in found.items():
            column = known(name, info.context)
            numeric(name, column)
            if column.type == "integer" and not amount.is_integer():
                raise ValueError(f"{name!r} is an integer: {amount:g} cannot be added to it")
        return found

    @model_validator(mode="after")
    def changes(self) -> Self:
        if not (self.set or self.add):
            raise ValueError("nothing is changed: say what to `set` or to `add`")
        for name in self.set.keys() & self.add:
            raise ValueError(f"{name!r} is both set and added to")
        return self


class Invariance(Change):
    """The change must not move a score by more than `tolerance`, in this share of the rows."""

    tolerance: float = Field(ge=0, allow_inf_nan=False)
    share: Share = 1.0

    @property
    def limit(self) -> float:
        return self.share

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
    share: Share | None = None

    @property
    def limit(self) -> float:
        return self.by if self.share is None else self.share

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
    share: Share = 1.0

    @property
    def limit(self) -> float:
        return self.share

    @property
    def measure(self) -> str:
        if self.label is not None:
            return f"share of rows that are called {self.label}"
        limits = {"at least": self.minimum, "at most": self.maximum}
        asked = [f"{word} {limit:g}" for word, limit in limits.items() if abs(limit) < inf]
        return f"share of rows with {self.of} {' and '.join(asked)}"

    @field_validator("row")
    @classmethod
    def is_whole(cls, row: dict[str, Scalar] | None, info: Info) -> dict[str, Scalar] | None:
        needed = {name for name, column in info.context.inputs.items() if not column.nullable}
        if row is not None and (missing := sorted(needed - set(row))):
            raise ValueError(f"required input {missing[0]!r} is missing")
        return row

    @field_validator("label")
    @classmethod
    def is_a_class(cls, label: str | None, info: Info) -> str | None:
        if label not in (None, *info.context.classes):
            raise ValueError(f"{label!r} is none of the classes {info.context.classes}")
        return label

    @model_validator(mode="after")
    def asks_for_something(self) -> Self:
        if (self.label is None) == ((self.minimum, self.maximum) == (-inf, inf)):
            limits = "the score's `minimum` and `maximum`"
            raise ValueError(f"say either which `label` is right, or {limits}")
        if self.row is not None and (self.where or self.given or self.set):
            others = "`where`, `given` and `set` do not go with it"
            raise ValueError(f"`row` is a row of its own: {others}")
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


def known(name: str, schema: Schema, sliced: bool = False) -> Column:
    """Return the column of an input or feature; `sliced`: also one by which the model is sliced."""
    if name not in {**schema.inputs, **schema.features} and not (sliced and name in schema.slices):
        raise ValueError(f"schema.yaml has no feature {name!r}")
    return schema.columns[name]


def numeric(name: str, column: Column) -> None:
    if column.type not in NUMBERS:
        raise ValueError(f"{name!r} is of type {column.type}, not a number")


def load_behaviour(schema: Schema) -> Behaviour:
    """Return the tests of behaviour.yaml; a mistake, or what the contract lacks, is a Failure."""
    return read_yaml(BEHAVIOUR, Behaviour, schema)
