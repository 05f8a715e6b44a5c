"""Schema: the data contract in schema.yaml, checked."""

from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from .files import SCHEMA, read_yaml


class Column(BaseModel, extra="forbid"):
    """What one column is. Numbers are in `unit`; `categories` are all the values there are."""

    type: Literal["number", "integer", "category", "boolean", "id", "timestamp"]
    role: Literal["feature", "target", "timestamp", "id", "ignored"] = "feature"
    description: str = ""
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    nullable: bool = False
    slice: bool = False

    @model_validator(mode="after")
    def consistent(self) -> Self:
        if self.role in ("feature", "target") and self.type in ("id", "timestamp"):
            raise ValueError(f"a column of type {self.type} cannot be a {self.role}")
        if (self.type == "category") != (self.categories is not None):
            raise ValueError("`categories` goes with type category, and only with it")
        return self


class Schema(BaseModel, extra="forbid"):
    """What a table is: its columns by name, its target and its task."""

    name: str
    description: str = ""
    limits: str = ""
    task: Literal["binary-classification"]
    target: str
    positive: str
    timestamp: str
    unique: tuple[str, ...] = ()
    min_rows: int = 1
    columns: dict[str, Column]

    @model_validator(mode="after")
    def consistent(self) -> Self:
        if unknown := set(self.unique) - set(self.columns):
            raise ValueError(f"`unique` names {sorted(unknown)}, which `columns` lacks")
        for role, name in (("target", self.target), ("timestamp", self.timestamp)):
            holders = [key for key, column in self.columns.items() if column.role == role]
            if holders != [name]:
                raise ValueError(f"role {role} belongs to {name!r} alone, but is at {holders}")
        classes = self.columns[self.target].categories or ()
        if len(classes) != 2 or self.positive not in classes:
            raise ValueError("the target needs two `categories`, and `positive` is one of them")
        return self

    @property
    def features(self) -> dict[str, Column]:
        """The model's inputs, in the order of the file."""
        return {name: column for name, column in self.columns.items() if column.role == "feature"}

    @property
    def categories(self) -> list[str]:
        return [name for name, column in self.columns.items() if column.type == "category"]

    @property
    def categorical(self) -> list[str]:
        return [name for name, column in self.features.items() if column.type == "category"]

    @property
    def numeric(self) -> list[str]:
        return [name for name, column in self.features.items() if column.type != "category"]

    def truth(self, table: Any) -> Any:
        """Return whether each row of a DataFrame is of the positive class: booleans, shape (rows,)."""
        return (table[self.target] == self.positive).to_numpy()


def load_schema() -> Schema:
    return read_yaml(SCHEMA, Schema)
