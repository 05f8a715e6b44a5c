"""What behaviour.yaml may say, checked against the contract."""

from datetime import date
from typing import Annotated, Literal, Self

import numpy as np
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

Info = ValidationInfo[Schema]  # its context is the contract
NUMBERS = ("number", "integer")


def single(value: object) -> Value:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, date):  # YAML has times of its own
        return value.isoformat()
    raise ValueError("give a number, a text, true, false or null")


def form(condition: object) -> str:
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


Scalar = Annotated[Value, BeforeValidator(single)]
Condition = Annotated[
    Annotated[Range, Tag("range")]
    | Annotated[list[Scalar], Tag("list")]
    | Annotated[Scalar, Tag("value")],
    Discriminator(form),
]
Conditions = dict[str, Condition]


class Case(BaseModel, extra="forbid"):
    """A test; the contract that it is checked against is the validation's context."""

    name: str = Field(min_length=1)
    why: str = Field(min_length=1)
    where: Conditions = {}  # which rows: all that have these values
    given: dict[str, Scalar] = {}  # set in each of them beforehand

    @field_validator("where", "given", "set", "row", check_fields=False)
    @classmethod
    def fits_the_contract(cls, found: Conditions | None, info: Info) -> Conditions | None:
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

    set: dict[str, Scalar] = {}
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

    row: dict[str, Scalar] | None = None
    set: dict[str, Scalar] = {}
    label: str | None = None
    of: str | None = Field(None, validate_default=True)
    minimum: float | None = Field(None, allow_inf_nan=False)
    maximum: float | None = Field(None, allow_inf_nan=False)
    share: float = Field(1.0, gt=0, le=1)

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
    """Return the column of an input or feature; `sliced`: also one by which the model is sliced."""
    known = {**schema.inputs, **schema.features}
    if name not in known and not (sliced and name in schema.slices):
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
