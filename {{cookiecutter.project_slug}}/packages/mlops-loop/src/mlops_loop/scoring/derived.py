"""Derived features: the project's `derive`, the same in training, scoring and monitoring.

`derive(columns)` gets the contract's inputs as NumPy columns and returns new ones, a value for
each row from that row alone. `Deriver` holds what comes back to the contract.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value

# Numbers, booleans, texts (or None) or times: the values of a column, shape (rows,).
Array = NDArray[np.float32 | np.float64 | np.int64 | np.bool_ | np.object_ | np.datetime64]
Arrays = dict[str, Array]
Floats = NDArray[np.float64]  # or float32: scores
Values = Sequence[Value | datetime] | Array  # of a column; in a list, None is a missing value
Columns = Mapping[str, Values]
Score = Callable[[Columns], Floats]  # takes every feature of the contract
Breach = tuple[int, str, str]  # a row's place, its derived column, and why that is not allowed
KINDS = {"number": "fiu", "integer": "fiu", "boolean": "bf", "category": "OU"}  # of NumPy's types
EPOCH = datetime(1970, 1, 1)
EPOCH_IN_UTC = datetime(1970, 1, 1, tzinfo=UTC)
NAT = np.iinfo(np.int64).min
FEW = 32  # rows up to which Python compares numbers faster than NumPy


class DeriveError(Failure):
    """The project's `derive` failed, or returned what is no column."""


class Inputs(Mapping[str, Array]):
    """The contract's inputs as `derive` gets them; a column is converted when it is asked for."""

    def __init__(self, columns: Columns, inputs: Mapping[str, Column]) -> None:
        self.columns = columns
        self.inputs = inputs

    def __getitem__(self, name: str) -> Array:
        array = as_array(self.columns[name], self.inputs[name]).view()
        array.flags.writeable = False  # the model reads the same values
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)


def as_array(values: Values, column: Column) -> Array:
    """Return a column as `derive` gets it.

    number, integer   float32, NaN where a value is missing
    boolean           bool; of a nullable column float32 with NaN
    category          object: str, None where a value is missing
    timestamp         datetime64[s] without a zone (UTC where one was named), NaT where missing
    """
    if column.type == "timestamp":
        if isinstance(values, np.ndarray):
            return values.astype("datetime64[s]")
        times = cast(Sequence[datetime | None], values)
        return np.fromiter(map(to_seconds, times), np.int64, len(times)).view("datetime64[s]")
    if column.type == "category":
        texts = values.tolist() if isinstance(values, np.ndarray) else values
        found = np.empty(len(texts), dtype=object)
        found[:] = [value or None for value in texts] if column.nullable else texts
        return found
    kind = np.bool_ if column.type == "boolean" and not column.nullable else np.float32
    return np.asarray(values, dtype=kind)


def to_seconds(value: datetime | None) -> int:
    """Return the seconds from 1970 until a time; NumPy takes nine times as long for a list."""
    if value is None:
        return NAT
    since = value - (EPOCH if value.tzinfo is None else EPOCH_IN_UTC)
    return since.days * 86_400 + since.seconds


@dataclass(frozen=True)
class Deriver:
    """Gives the derived columns of rows; threads may share it."""

    name: str  # of the project's function, as messages have it
    function: Callable[[Mapping[str, Array]], object]
    inputs: dict[str, Column]
    derived: dict[str, Column]
    limits: dict[str, tuple[float, float]]  # of the derived columns

    def __call__(self, columns: Columns) -> Arrays:
        """Return the derived columns: numbers as float32, booleans as bool, texts as objects.

        Raises DeriveError, which names the function, if it fails or returns anything else.
        """
        if not self.derived:
            return {}
        try:
            with np.errstate(all="ignore"):
                found = self.function(Inputs(columns, self.inputs))
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DeriveError(f"{self.name} failed: {reason}") from error
        if not isinstance(found, dict):
            raise self.wrong("a dictionary of columns", type(found).__name__)
        if missing := self.derived.keys() - found.keys():
            why = f"{min(missing)!r}, which schema.yaml declares as derived"
            raise DeriveError(f"{self.name} does not return {why}")
        rows = len(next(iter(columns.values())))
        return {name: self.column(name, found[name], rows) for name in self.derived}

    def wrong(self, wanted: str, returned: object) -> DeriveError:
        return DeriveError(f"{self.name} must return {wanted}, and returned {returned}")

    def column(self, name: str, values: object, rows: int) -> Array:
        """Return a derived column in the contract's type."""
        kind = self.derived[name].type
        if not isinstance(values, np.ndarray) or values.shape != (rows,):
            wanted = f"{name!r} as an array with a value for each row, of shape {(rows,)}"
            raise self.wrong(wanted, getattr(values, "shape", type(values).__name__))
        if values.dtype.kind not in KINDS[kind]:
            raise self.wrong(f"{name!r} as {kind}", values.dtype)
        if kind == "category":
            return values.astype(object)
        return values if values.dtype.kind == "b" else values.astype(np.float32)

    def undeclared(self, columns: Columns) -> list[str]:
        """Return the columns that the function gives and the contract does not know."""
        found = cast(dict[str, Array], self.function(Inputs(columns, self.inputs)))
        return [name for name in found if name not in self.derived]

    def breaches(self, derived: Arrays) -> list[Breach]:
        """Return which derived values the contract does not allow, in the order of the columns."""
        found = []
        for name, array in derived.items():
            low, high = self.limits[name]
            is_number = self.derived[name].type == "number"
            if is_number and len(array) > FEW and low <= array.min() and array.max() <= high:
                continue
            values = array.tolist()
            faults = {value: self.fault(name, value) for value in set(values)}
            if any(faults.values()):
                rows = enumerate(values)
                found += [(row, name, faults[value]) for row, value in rows if faults[value]]
        return found

    def fault(self, name: str, value: Value) -> str:
        """Return why a value is none of the column, "" if it is one."""
        column = self.derived[name]
        if value is None or value != value or value == "":
            return "" if column.nullable else "is missing"
        if isinstance(value, str) != (column.type == "category"):
            return f"is not of type {column.type}"
        if isinstance(value, str):
            known = column.allow_unknown or value in (column.categories or ())
            return "" if known else "is not one of the categories"
        low, high = (0, 1) if column.type == "boolean" else self.limits[name]
        if not low <= value <= high:
            return "is out of range"
        return f"is not of type {column.type}" if column.type != "number" and value % 1 else ""


def open_deriver(schema: Schema) -> Deriver:
    """Return what derives the contract's columns by the project's `derive`.

    The function is loaded only if the contract declares derived columns.
    """
    function = project.required("derive") if schema.derived else dict
    name = project.current_project().derive if schema.derived else ""
    limits = {key: column.limits for key, column in schema.derived.items()}
    return Deriver(name or "", function, schema.inputs, schema.derived, limits)
