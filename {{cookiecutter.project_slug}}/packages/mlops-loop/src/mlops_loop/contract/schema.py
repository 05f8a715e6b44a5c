"""Schema: the data contract in schema.yaml, checked."""

from collections.abc import Iterator
from itertools import chain
from math import ceil, floor
from struct import pack, unpack
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, Field, field_validator, model_validator

from mlops_loop.base.config import PositiveShare, Share, at_key, read_yaml
from mlops_loop.base.files import SCHEMA
from mlops_loop.contract.values import Task
from mlops_loop.contract.versions import problem

LARGEST = 3.4028234e38  # of float32, in which the model computes

Role = Literal["feature", "input", "target", "timestamp", "id", "slice", "ignored"]


class Column(BaseModel, extra="forbid"):
    """What one column is. Numbers are in `unit`; `categories` are all the values there are.

    The API takes the columns of role `feature` and `input`; the model sees the features alone. A
    column with `derived: true` is a feature or a slice that `derive` in features.py computes from
    those: neither the source nor a request has it.
    """

    type: Literal["number", "integer", "category", "boolean", "id", "timestamp"]
    role: Role = "feature"
    derived: bool = False  # whether `derive` in features.py computes it
    description: str = ""
    unit: str | None = None
    format: str | None = None  # of a time: strptime's, `epoch s|ms|us|ns`, `excel`; else ISO 8601
    decimal: Literal[".", ","] = "."  # of numbers in texts, such as a CSV file has
    minimum: float | None = Field(None, allow_inf_nan=False)
    maximum: float | None = Field(None, allow_inf_nan=False)
    categories: tuple[str, ...] | None = Field(None, min_length=1)
    # Whether other categories are allowed; to the model they are all alike.
    allow_unknown: bool = Field(False, validation_alias=AliasChoices("allow_unknown", "unseen"))
    nullable: bool = False  # rows without target or timestamp are left out of the windows
    max_null: Share = 0.99  # of rows, of a nullable column
    mostly: Share = 1  # of rows that must keep each rule
    max_shift: PositiveShare | None = None  # instead of the table's
    slice: bool = False  # whether the model is evaluated on each value
    protected: bool = False  # whether it tells groups of people, whom the model must treat alike
    # Whether the prediction log must not hold it: it is left out, or hashed.
    pii: bool = Field(False, validation_alias=AliasChoices("pii", "sensitive"))

    @model_validator(mode="after")
    def consistent(self) -> Self:
        for reason, contradicts in (self.role_rules() | self.key_rules()).items():
            if contradicts:
                raise ValueError(reason)
        return self

    def role_rules(self) -> dict[str, bool]:
        """Return what may contradict the role, and whether it does."""
        kind, role = self.type, self.role
        no_value = kind in ("id", "timestamp")
        derivable = role in ("feature", "slice")
        sent = role in ("feature", "input") and not self.derived
        groups = kind in ("category", "boolean") and role not in ("target", "ignored")
        return {
            f"a column of type {kind} cannot be a {role}": no_value
            and role in ("feature", "target"),
            "role timestamp needs type timestamp": role == "timestamp" and kind != role,
            "a column of type id cannot be an input": role == "input" and kind == "id",
            f"a derived column is a feature or a slice, not a column of role {role}": (
                self.derived and not derivable
            ),
            f"a derived column cannot be of type {kind}": self.derived and no_value,
            "`protected` goes with a category or boolean, not with the target": (
                self.protected and not groups
            ),
            "`pii` goes with what the API takes: the log holds nothing else": self.pii and not sent,
        }

    def key_rules(self) -> dict[str, bool]:
        """Return which keys may contradict the others, and whether they do."""
        kind = self.type
        low, high = self.limits
        limited = (self.minimum, self.maximum) != (None, None)
        names = self.categories or ()
        misplaced = (kind == "category") != bool(names) and self.role != "ignored"
        open_ended = kind == "category" and self.role != "target"
        null_limited = "max_null" in self.model_fields_set
        numeric = kind in ("number", "integer")
        return {
            "`categories` goes with type category, and only with it": misplaced,
            "`categories` names a value twice": len(set(names)) < len(names),
            "`minimum` and `maximum` go with type number or integer only": limited and not numeric,
            f"minimum {low:g} is above maximum {high:g}": low > high,
            f"no integer is between {low:g} and {high:g}": (
                kind == "integer" and floor(high) < ceil(low)
            ),
            "`format` goes with type timestamp only": bool(self.format) and kind != "timestamp",
            "`allow_unknown` goes with a category that is not the target": (
                self.allow_unknown and not open_ended
            ),
            "a model is not evaluated on each time: `slice` does not go with it": (
                self.slice and kind == "timestamp"
            ),
            "`max_null` goes with `nullable: true` only": null_limited and not self.nullable,
        }

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value: what the contract says, or what float32 can hold."""
        low = -LARGEST if self.minimum is None else self.minimum
        high = LARGEST if self.maximum is None else self.maximum
        if self.derived:  # as float32: 0.1 then is more than 0.1
            return min(low, as_float32(low)), max(high, as_float32(high))
        return low, high


class Schema(BaseModel, extra="forbid"):
    """What a table is: its columns by name, its target and its task."""

    mlops_loop: str | None = None  # that made it, such as "1.0"
    columns: dict[str, Column]
    name: str = Field(min_length=1)
    description: str = ""
    limits: str = ""
    task: Task
    target: str
    positive: str | None = None  # class, of a binary classification
    timestamp: str | None = None
    unique: tuple[str, ...] = ()
    min_rows: int = Field(1, ge=1)
    missing: tuple[str, ...] = ("",)  # texts of a source that stand for a missing value
    max_duplicates: Share = 0  # of rows that repeat another one
    max_overlap: Share = 0  # of test rows whose features and target the training window has, too
    max_leakage: PositiveShare = 0.99  # how well one feature may tell the target
    max_shift: PositiveShare = 0.3  # distance from the last accepted data

    @field_validator("mlops_loop")  # before all else, because all else may depend on it
    @classmethod
    def can_be_read(cls, made_by: str | None) -> str | None:
        if found := problem(made_by):
            raise ValueError(found)
        return made_by

    @model_validator(mode="after")
    def consistent(self) -> Self:
        wrong = chain(wrong_columns(self), wrong_roles(self), wrong_target(self), wrong_names(self))
        for key, reason in wrong:
            raise at_key(key, reason)
        return self

    @property
    def features(self) -> dict[str, Column]:
        """The model's inputs, in the order of the file."""
        return {name: column for name, column in self.columns.items() if column.role == "feature"}

    @property
    def inputs(self) -> dict[str, Column]:
        """What the API takes, in the order of the file."""
        taken = ("feature", "input")
        columns = self.columns.items()
        return {name: each for name, each in columns if each.role in taken and not each.derived}

    @property
    def derived(self) -> dict[str, Column]:
        """What `derive` computes from the inputs."""
        return {name: column for name, column in self.columns.items() if column.derived}

    @property
    def used(self) -> dict[str, Column]:
        """The columns that the pipeline keeps and checks: all but the ignored ones."""
        return {name: column for name, column in self.columns.items() if column.role != "ignored"}

    @property
    def source(self) -> dict[str, Column]:
        """The columns that are read from the source: those in use that are not derived."""
        return {name: column for name, column in self.used.items() if not column.derived}

    @property
    def slices(self) -> list[str]:
        """The columns on whose values the model is evaluated one by one."""
        used = self.used.items()
        return [key for key, one in used if one.slice or one.protected or one.role == "slice"]

    @property
    def protected(self) -> list[str]:
        return [name for name, column in self.used.items() if column.protected]

    @property
    def categorical(self) -> list[str]:
        return [name for name, column in self.features.items() if column.type == "category"]

    @property
    def numeric(self) -> list[str]:
        return [name for name, column in self.features.items() if column.type != "category"]

    @property
    def classes(self) -> list[str]:
        """The target's classes in the order of the model's probabilities; none for a regression."""
        return sorted(self.columns[self.target].categories or ())

    @property
    def prediction(self) -> str:
        """A name for the model's output beside the features, which may have it already."""
        return "prediction" if "prediction" not in self.columns else "prediction of the model"


def wrong_columns(schema: Schema) -> Iterator[tuple[str, str]]:
    if "" in schema.columns:
        yield "columns", "a column needs a name"
    if not schema.features:
        yield "columns", "no column has the role feature"
    if not schema.inputs:
        yield "columns", "every feature is derived: no column is left that the API takes"


def wrong_roles(schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield which of `target` and `timestamp` is not the one column of that role.

    Without a column of role timestamp, one of another role may give the rows' time.
    """
    for role, name in {"target": schema.target, "timestamp": schema.timestamp}.items():
        holders = [key for key, column in schema.columns.items() if column.role == role]
        time = schema.columns.get(name or "") if role == "timestamp" and not holders else None
        if time and (time.type != "timestamp" or time.role == "ignored"):
            yield role, f"{name!r} is of type {time.type} and role {time.role}"
        if not time and holders != [name] and (holders or name):
            yield role, f"role {role} belongs to {name!r} alone, but is at {holders}"


def wrong_target(schema: Schema) -> Iterator[tuple[str, str]]:
    number = schema.columns[schema.target].type in ("number", "integer")
    classes = list(schema.columns[schema.target].categories or ())
    if schema.task == "regression" and not number:
        yield "target", "the target of a regression is of type number or integer"
    if schema.task == "binary-classification" and len(classes) != 2:
        yield "target", "the target of a binary classification has two `categories`"
    if schema.task == "multiclass-classification" and len(classes) < 3:
        yield "target", "the target of a multiclass classification has three or more `categories`"
    if schema.task == "binary-classification" and schema.positive not in classes:
        yield "positive", f"name the class that is predicted: one of {classes}"
    if schema.task != "binary-classification" and schema.positive is not None:
        yield "positive", "goes with a binary classification only"


def wrong_names(schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield what `unique` and `missing` name that they may not."""
    known = {"`columns` lacks": schema.columns, "are ignored": schema.used}
    for why, allowed in (known | {"are derived": schema.source}).items():
        if names := [name for name in schema.unique if name not in allowed]:
            yield "unique", f"names {names}, which {why}"
    for name, column in schema.columns.items():
        if both := [text for text in schema.missing if text in (column.categories or ())]:
            yield "missing", f"names {both[0]!r}, which is a category of {name!r}"


def as_float32(number: float) -> float:
    value: float = unpack("f", pack("f", max(-LARGEST, min(number, LARGEST))))[0]
    return value


def load_schema() -> Schema:
    return read_yaml(SCHEMA, Schema)
