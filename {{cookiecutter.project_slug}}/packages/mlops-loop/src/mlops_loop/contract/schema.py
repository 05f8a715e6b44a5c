"""Schema: the data contract in schema.yaml, checked."""

from math import ceil, floor
from struct import pack, unpack
from typing import Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mlops_loop.base.config import read_yaml
from mlops_loop.base.files import SCHEMA
from mlops_loop.contract import versions
from mlops_loop.contract.task import Task

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
    allow_unknown: bool = Field(
        default=False, validation_alias=AliasChoices("allow_unknown", "unseen")
    )
    nullable: bool = False  # rows without target or timestamp are left out of the windows
    max_null: float = Field(default=0.99, ge=0, le=1)  # share of rows, of a nullable column
    mostly: float = Field(default=1, ge=0, le=1)  # share of rows that must keep each rule
    max_shift: float | None = Field(None, gt=0, le=1)  # instead of the table's
    slice: bool = False  # whether the model is evaluated on each value
    protected: bool = (
        False  # whether groups of people are told by it: the model must treat them alike
    )
    # Whether the prediction log must not hold it: it is left out, or hashed.
    pii: bool = Field(default=False, validation_alias=AliasChoices("pii", "sensitive"))

    @model_validator(mode="after")
    def role_fits(self) -> Self:
        if self.role in ("feature", "target") and self.type in ("id", "timestamp"):
            raise ValueError(f"a column of type {self.type} cannot be a {self.role}")
        if (self.role == "timestamp") and self.type != "timestamp":
            raise ValueError("role timestamp needs type timestamp")
        if self.role == "input" and self.type == "id":
            raise ValueError("a column of type id cannot be an input")
        if self.derived and self.role not in ("feature", "slice"):
            raise ValueError(
                f"a derived column is a feature or a slice, not a column of role {self.role}"
            )
        if self.derived and self.type in ("id", "timestamp"):
            raise ValueError(f"a derived column cannot be of type {self.type}")
        return self

    @model_validator(mode="after")
    def values_fit(self) -> Self:
        if (self.type == "category") != (self.categories is not None) and self.role != "ignored":
            raise ValueError("`categories` goes with type category, and only with it")
        if len(set(self.categories or ())) != len(self.categories or ()):
            raise ValueError("`categories` names a value twice")
        if (self.minimum, self.maximum) != (None, None) and self.type not in ("number", "integer"):
            raise ValueError("`minimum` and `maximum` go with type number or integer only")
        if None not in (self.minimum, self.maximum) and self.limits[0] > self.limits[1]:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if self.type == "integer" and floor(self.limits[1]) < ceil(self.limits[0]):
            raise ValueError(f"no integer is between {self.minimum:g} and {self.maximum:g}")
        if self.format and self.type != "timestamp":
            raise ValueError("`format` goes with type timestamp only")
        return self

    @model_validator(mode="after")
    def flags_fit(self) -> Self:
        if self.allow_unknown and (self.type != "category" or self.role == "target"):
            raise ValueError("`allow_unknown` goes with a category that is not the target")
        if self.slice and self.type == "timestamp":
            raise ValueError("a model is not evaluated on each time: `slice` does not go with it")
        if self.protected and (
            self.type not in ("category", "boolean") or self.role in ("target", "ignored")
        ):
            raise ValueError("`protected` goes with a category or boolean, not with the target")
        if self.pii and (self.derived or self.role not in ("feature", "input")):
            raise ValueError("`pii` goes with what the API takes: the log holds nothing else")
        if "max_null" in self.model_fields_set and not self.nullable:
            raise ValueError("`max_null` goes with `nullable: true` only")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value: what the contract says, or what float32 can hold."""
        low = -LARGEST if self.minimum is None else self.minimum
        high = LARGEST if self.maximum is None else self.maximum
        if self.derived:  # as float32: 0.1 then is more than 0.1
            return min(low, as_float32(low)), max(high, as_float32(high))
        return low, high


class Schema(BaseModel, extra="forbid"):
    """What a table is: its columns by name, its target and its task.

    `columns` comes first, because the other keys are checked against it; but for the version, of
    which all else depends.
    """

    mlops_loop: str | None = None  # that made it, such as "1.0"
    columns: dict[str, Column]
    name: str = Field(min_length=1)
    description: str = ""
    limits: str = ""
    task: Task
    target: str
    positive: str | None = Field(None, validate_default=True)  # class, of a binary classification
    timestamp: str | None = Field(None, validate_default=True)
    unique: tuple[str, ...] = ()
    min_rows: int = Field(default=1, ge=1)
    missing: tuple[str, ...] = ("",)  # texts of a source that stand for a missing value
    max_duplicates: float = Field(default=0, ge=0, le=1)  # rows that repeat another one
    max_overlap: float = Field(
        default=0, ge=0, le=1
    )  # test rows whose features and target are also in the training window
    max_leakage: float = Field(default=0.99, gt=0, le=1)  # how well one feature may tell the target
    max_shift: float = Field(default=0.3, gt=0, le=1)  # distance from the last accepted data

    @field_validator("mlops_loop")
    @classmethod
    def can_be_read(cls, made_by: str | None) -> str | None:
        if found := versions.problem(made_by):
            raise ValueError(found)
        return made_by

    @field_validator("columns")
    @classmethod
    def has_features(cls, columns: dict[str, Column]) -> dict[str, Column]:
        if "" in columns:
            raise ValueError("a column needs a name")
        if not any(column.role == "feature" for column in columns.values()):
            raise ValueError("no column has the role feature")
        if not any(c.role in ("feature", "input") and not c.derived for c in columns.values()):
            raise ValueError("every feature is derived: no column is left that the API takes")
        return columns

    @field_validator("target", "timestamp")
    @classmethod
    def alone_in_its_role(cls, name: str | None, info: ValidationInfo) -> str | None:
        columns = info.data.get("columns", {})
        holders = [key for key, column in columns.items() if column.role == info.field_name]
        if info.field_name == "timestamp" and not holders and name is not None and name in columns:
            return cls.fits_a_timestamp(name, columns[name])
        if columns and holders != [name] and (holders or name):
            raise ValueError(
                f"role {info.field_name} belongs to {name!r} alone, but is at {holders}"
            )
        return name

    @staticmethod
    def fits_a_timestamp(name: str, column: Column) -> str:
        """Return the name of a column of another role that gives the rows' time."""
        if column.type != "timestamp" or column.role == "ignored":
            raise ValueError(f"{name!r} is of type {column.type} and role {column.role}")
        return name

    @field_validator("target")
    @classmethod
    def fits_the_task(cls, name: str, info: ValidationInfo) -> str:
        column = info.data.get("columns", {}).get(name)
        task = info.data.get("task")
        if column is None or task is None:
            return name  # reported elsewhere
        classes = len(column.categories or ())
        if task == "regression" and column.type not in ("number", "integer"):
            raise ValueError("the target of a regression is of type number or integer")
        if task == "binary-classification" and classes != 2:
            raise ValueError("the target of a binary classification has two `categories`")
        if task == "multiclass-classification" and classes < 3:
            raise ValueError(
                "the target of a multiclass classification has three or more `categories`"
            )
        return name

    @field_validator("positive")
    @classmethod
    def is_a_class(cls, positive: str | None, info: ValidationInfo) -> str | None:
        binary = info.data.get("task") == "binary-classification"
        column = info.data.get("columns", {}).get(info.data.get("target"))
        if column and binary and positive not in column.categories:
            raise ValueError(f"name the class that is predicted: one of {list(column.categories)}")
        if column and not binary and positive is not None:
            raise ValueError("goes with a binary classification only")
        return positive

    @field_validator("unique")
    @classmethod
    def known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        columns = info.data.get("columns", {})
        if unknown := [name for name in names if name not in info.data.get("columns", names)]:
            raise ValueError(f"names {unknown}, which `columns` lacks")
        if ignored := [name for name in names if name not in used(columns)]:
            raise ValueError(f"names {ignored}, which are ignored")
        if derived := [name for name in names if columns[name].derived]:
            raise ValueError(f"names {derived}, which are derived")
        return names

    @field_validator("missing")
    @classmethod
    def not_a_category(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name, column in info.data.get("columns", {}).items():
            if both := [text for text in texts if text in (column.categories or ())]:
                raise ValueError(f"names {both[0]!r}, which is a category of {name!r}")
        return texts

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
        return used(self.columns)

    @property
    def source(self) -> dict[str, Column]:
        """The columns that are read from the source: those in use that are not derived."""
        return {name: column for name, column in self.used.items() if not column.derived}

    @property
    def slices(self) -> list[str]:
        """The columns on whose values the model is evaluated one by one."""
        used = self.used.items()
        return [
            name
            for name, column in used
            if column.slice or column.protected or column.role == "slice"
        ]

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


def as_float32(number: float) -> float:
    value: float = unpack("f", pack("f", number))[0]
    return value


def used(columns: dict[str, Column]) -> dict[str, Column]:
    return {name: column for name, column in columns.items() if column.role != "ignored"}


def load_schema() -> Schema:
    return read_yaml(SCHEMA, Schema)
