"""Schema: the data contract in schema.yaml, checked."""

from collections.abc import Callable, Iterator
from math import ceil, floor
from struct import pack, unpack
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mlops_loop.base.config import PositiveShare, Share, read_yaml
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
        for key, (what, fits) in self.goes_with().items():
            value = getattr(self, key) if key in self.model_fields_set else None
            if not (fits or value is None or value is False):
                raise ValueError(f"`{key}` goes with {what}")
        for reason, contradicts in self.contradictions().items():
            if contradicts:
                raise ValueError(reason)
        return self

    def goes_with(self) -> dict[str, tuple[str, bool]]:
        """Return what each key goes with, and whether this column is that."""
        kind, role = self.type, self.role
        number = "type number or integer only", kind in ("number", "integer")
        category = kind == "category"
        groups = kind in ("category", "boolean") and role not in ("target", "ignored")
        return {
            "categories": ("type category, and only with it", category or role == "ignored"),
            "minimum": number,
            "maximum": number,
            "format": ("type timestamp only", kind == "timestamp"),
            "allow_unknown": ("a category that is not the target", category and role != "target"),
            "max_null": ("`nullable: true` only", self.nullable),
            "slice": ("all types but timestamp", kind != "timestamp"),
            "protected": ("a category or boolean that is not the target", groups),
            "pii": ("what the API takes: the log holds nothing else", self.taken),
        }

    def contradictions(self) -> dict[str, bool]:
        """Return what else the column's keys may contradict, and whether they do."""
        kind, role = self.type, self.role
        low, high = self.limits
        names = self.categories or ()
        unnamed = kind == "category" and not names and role != "ignored"
        valued = self.derived or role in ("feature", "target") or (kind, role) == ("id", "input")
        misfit = valued and kind in ("id", "timestamp")
        underivable = self.derived and role not in ("feature", "slice")
        no_integer = kind == "integer" and floor(high) < ceil(low)
        return {
            f"a column of type {kind} cannot be a {'derived ' * self.derived}{role}": misfit,
            "role timestamp needs type timestamp": role == "timestamp" and kind != role,
            f"a derived column is a feature or a slice, not a column of role {role}": underivable,
            "type category needs `categories`": unnamed,
            "`categories` names a value twice": len(set(names)) < len(names),
            f"minimum {low:g} is above maximum {high:g}": low > high,
            f"no integer is between {low:g} and {high:g}": no_integer,
        }

    @property
    def taken(self) -> bool:
        """Whether the API takes it."""
        return self.role in ("feature", "input") and not self.derived

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
        for key, reason in contradictions(self):
            context = {"place": (key,), "reason": reason}  # as config.parse_yaml reads it
            raise PydanticCustomError("contradiction", "{reason}", context)
        return self

    def which(self, wanted: Callable[[Column], bool]) -> dict[str, Column]:
        """Return the columns that are wanted, in the order of the file."""
        return {name: column for name, column in self.columns.items() if wanted(column)}

    @property
    def features(self) -> dict[str, Column]:
        """The model's inputs."""
        return self.which(lambda column: column.role == "feature")

    @property
    def inputs(self) -> dict[str, Column]:
        """What the API takes."""
        return self.which(lambda column: column.taken)

    @property
    def derived(self) -> dict[str, Column]:
        """What `derive` computes from the inputs."""
        return self.which(lambda column: column.derived)

    @property
    def used(self) -> dict[str, Column]:
        """The columns that the pipeline keeps and checks: all but the ignored ones."""
        return self.which(lambda column: column.role != "ignored")

    @property
    def source(self) -> dict[str, Column]:
        """The columns that are read from the source: those in use that are not derived."""
        return self.which(lambda column: column.role != "ignored" and not column.derived)

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


def contradictions(schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield the keys that contradict the rest of the contract, and why."""
    if "" in schema.columns:
        yield "columns", "a column needs a name"
    if not schema.features:
        yield "columns", "no column has the role feature"
    if not schema.inputs:
        yield "columns", "every feature is derived: no column is left that the API takes"
    yield from wrong_roles(schema)
    yield from wrong_target(schema)
    if names := [name for name in schema.unique if name not in schema.source]:
        yield "unique", f"names {names}, which are no columns in use of the source"
    for name, column in schema.columns.items():
        if both := [text for text in schema.missing if text in (column.categories or ())]:
            yield "missing", f"names {both[0]!r}, which is a category of {name!r}"


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
    classes = schema.classes
    binary = schema.task == "binary-classification"
    number = schema.columns[schema.target].type in ("number", "integer")
    fits, what = {
        "regression": (number, "is of type number or integer"),
        "binary-classification": (len(classes) == 2, "has two `categories`"),
        "multiclass-classification": (len(classes) > 2, "has three or more `categories`"),
    }[schema.task]
    if not fits:
        yield "target", f"the target of a {schema.task.replace('-', ' ')} {what}"
    if binary and schema.positive not in classes:
        yield "positive", f"name the class that is predicted: one of {classes}"
    if not binary and schema.positive is not None:
        yield "positive", "goes with a binary classification only"


def as_float32(number: float) -> float:
    value: float = unpack("f", pack("f", max(-LARGEST, min(number, LARGEST))))[0]
    return value


def load_schema() -> Schema:
    return read_yaml(SCHEMA, Schema)
