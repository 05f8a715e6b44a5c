"""Read requests and check them against the contract, by msgspec types made from it."""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from math import ceil, floor
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
from msgspec import Meta

from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.contract.values import MAX_ROWS, ODD_NAME, Row, Value

Outcome = str | int | float | bool
MAX_OUTCOMES = 10_000  # in one request
OUTCOME_FIELDS = {name: name for name in ("prediction_id", "value")}
LENGTH = Meta(min_length=1, max_length=MAX_ROWS)
EXACT = 2**53  # up to here every integer is a float, too
UNKNOWN = "there is a key that the contract does not know"
TIME = "is no time in ISO 8601, such as 2024-12-31T23:59:00"
NOT_A_COLUMN = "(unknown column)"  # stands for one that a client made up
TOLD = {  # msgspec's words that would echo what was sent, and ours
    r"Object contains unknown field .*": UNKNOWN,
    r"Invalid enum value .*": "is none of the contract's categories",
    r"Invalid RFC3339 encoded datetime": TIME,
}


class ErrorDetail(TypedDict):
    """What is wrong with a request, as FastAPI has it."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(Exception):
    """A request that cannot be answered: its HTTP status, what is wrong, and where.

    `column` is the one that broke the contract, if one did; it is never the client's text.
    """

    def __init__(
        self, status: int, text: str, place: Sequence[str | int] = (), column: str = ""
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.place = ["body", *place]
        self.column = column
        match place:
            case ["rows", int(), str(name)]:
                self.column = name
            case ["rows", int()] if text == UNKNOWN:
                self.column = NOT_A_COLUMN

    @property
    def detail(self) -> list[ErrorDetail]:
        return [{"loc": self.place, "msg": self.text, "type": "value_error"}]


def value_type(column: Column) -> Any:
    """Return the type of one value: strict, within the contract's range or categories."""
    low, high = column.limits
    number: Any = Annotated[float, Meta(ge=low, le=high)]
    if column.type == "integer":  # 5.0 is one as well: to JSON they are the same
        number = Annotated[float, Meta(ge=low, le=high, multiple_of=1)]
        if max(-low, high) <= EXACT:
            number = Annotated[int, Meta(ge=ceil(low), le=floor(high))] | number
    known: Any = str if column.allow_unknown else Literal[column.categories]
    kinds: dict[str, Any] = {"category": known, "boolean": bool, "timestamp": datetime}
    kind = kinds.get(column.type, number)
    return kind | None if column.nullable else kind


class Rows(NamedTuple):
    """What was asked: the rows, and the same as columns, in which None is a missing value."""

    rows: list[msgspec.Struct]
    columns: dict[str, Sequence[Value | datetime]]


class Reader:
    """Reads requests as the contract has them; `secret` hashes its `pii` columns in the log."""

    def __init__(self, schema: Schema, secret: bytes = b"") -> None:
        self.inputs = schema.inputs
        # Columns may have any name, fields may not: the n-th one is f<n>.
        names = {f"f{place}": name for place, name in enumerate(schema.inputs)}
        members: list[Any] = [
            (field, value_type(column), *([None] if column.nullable else []))
            for field, column in zip(names, schema.inputs.values(), strict=True)
        ]
        # Where a name cannot be a field's, rows are read as mappings, and their keys replaced.
        odd = any(map(ODD_NAME.search, names.values()))
        self.fields = {name: field for field, name in names.items()} if odd else {}
        # As errors call them.
        self.names = names if odd else {name: name for name in schema.inputs}
        options: Any = {"rename": None if odd else names, "kw_only": True}
        options |= {"forbid_unknown_fields": True}
        row: Any = msgspec.defstruct("Row", members, gc=False, **options)
        self.type: Any = Annotated[list[row], LENGTH]
        kind = Annotated[list[dict[str, Any]], LENGTH] if odd else self.type
        body = msgspec.defstruct("Rows", [("rows", kind)], forbid_unknown_fields=True)
        self.decoder: Any = msgspec.json.Decoder(body)
        self.missing = set(schema.missing)
        self.secret = secret
        self.pii = [name for name, column in schema.inputs.items() if column.pii]
        self.others = {
            name: no_input(name, schema) for name in schema.columns if name not in schema.inputs
        }

    def read(self, body: bytes) -> Rows:
        """Return the rows of a JSON body {"rows": [...]}. Raises Invalid."""
        try:
            decoded = self.decoder.decode(body).rows
            rows = self.to_rows(decoded) if self.fields else decoded
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), names=self.names, others=self.others) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid(400, "this is not JSON") from None
        return Rows(rows, self.columns(rows))

    def from_records(self, records: Sequence[Row]) -> Rows:
        """Return the rows of mappings; raise Invalid if they break the contract."""
        try:
            rows = self.to_rows(records)
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), ["rows"], self.names, self.others) from None
        return Rows(rows, self.columns(rows))

    def columns(self, rows: list[msgspec.Struct]) -> dict[str, Sequence[Value | datetime]]:
        """Return the rows as columns.

        Where any text is allowed, some stand for a missing value: Invalid where none may be.
        """
        values = zip(*map(msgspec.structs.astuple, rows), strict=True)
        found: dict[str, Any] = dict(zip(self.inputs, values, strict=True))
        for name, column in self.inputs.items():
            if column.allow_unknown and not self.missing.isdisjoint(found[name]):
                if not column.nullable:
                    place = next(n for n, value in enumerate(found[name]) if value in self.missing)
                    raise Invalid(422, "is missing", ["rows", place, name])
                found[name] = [None if value in self.missing else value for value in found[name]]
        return found

    def to_rows(self, records: Sequence[Row]) -> list[msgspec.Struct]:
        """Return mappings as structs. Raises msgspec.ValidationError, or Invalid."""
        given = self.translated(records) if self.fields else records
        rows: list[msgspec.Struct] = msgspec.convert(given, self.type)
        return rows

    def translated(self, records: Sequence[Row]) -> list[Row]:
        """Return mappings with the fields' names; keys that are not known stay unknown."""
        for place, row in enumerate(records):
            for name in row:
                if name in self.others:
                    raise Invalid(422, self.others[name], ["rows", place, name])
        return [{self.fields.get(key, ""): value for key, value in row.items()} for row in records]

    def loggable(self, rows: list[msgspec.Struct]) -> Sequence[msgspec.Struct | Row]:
        """Return rows as the log may have them.

        Columns that the contract marks as `pii` are left out or, if there is a secret, hashed.
        """
        if not self.fields and not self.pii:
            return rows
        return [
            self.without({self.names.get(key, key): value for key, value in row.items()})
            for row in msgspec.to_builtins(rows)
        ]

    def without(self, row: dict[str, Value]) -> dict[str, Value]:
        """Return a row as the log may have it."""
        for name in self.pii:
            if (value := row.pop(name, None)) is not None and self.secret:
                row[name] = hmac.new(self.secret, str(value).encode(), sha256).hexdigest()
        return row


class OutcomeReader:
    """Reads ground truth as the contract has it: {"outcomes": [...]}."""

    def __init__(self, schema: Schema) -> None:
        target = schema.columns[schema.target]
        whole = 1 if target.type == "integer" else None
        # A number may lie beyond the contract's range: the world is not bound to it.
        number: Any = Annotated[float, Meta(ge=-LARGEST, le=LARGEST, multiple_of=whole)]
        value: Any = Literal[tuple(schema.classes)] if schema.classes else number
        described = Annotated[value, Meta(description=target.description)]
        name = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
        fields = [("prediction_id", name), ("value", described)]
        outcome: Any = msgspec.defstruct("Outcome", fields, forbid_unknown_fields=True)
        outcomes = Annotated[list[outcome], Meta(min_length=1, max_length=MAX_OUTCOMES)]
        self.type: Any = msgspec.defstruct(
            "Outcomes", [("outcomes", outcomes)], forbid_unknown_fields=True
        )
        self.decoder: Any = msgspec.json.Decoder(self.type)

    def read(self, body: bytes) -> list[tuple[str, Outcome]]:
        """Return (prediction id, value) pairs. Raises Invalid."""
        try:
            outcomes = self.decoder.decode(body).outcomes
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), names=OUTCOME_FIELDS) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid(400, "this is not JSON") from None
        return [(outcome.prediction_id, outcome.value) for outcome in outcomes]


def no_input(name: str, schema: Schema) -> str:
    """Return why a request must not have a column that the contract knows."""
    column = schema.columns[name]
    if column.derived:
        return f"{name} is derived from the inputs by the server: leave it out"
    what = {"id": "an id", "slice": "a slice", "ignored": "ignored"}.get(
        column.role, f"the contract's {column.role}"
    )
    return f"{name} is {what}, not an input: leave it out"


def to_invalid(
    text: str,
    place: Sequence[str | int] = (),
    names: Mapping[str, str] = {},
    others: Mapping[str, str] = {},
) -> Invalid:
    """Return what msgspec says of a request, without echoing any of it.

    `names` are the inputs; `others` say of the contract's other columns why they are none.
    """
    said, _, where = text.rpartition(" - at `$") if " - at `$" in text else (text, "", "")
    unknown = re.fullmatch("Object contains unknown field `(.*)`", said, re.DOTALL)
    other = unknown[1] if unknown and unknown[1] in others else ""
    for pattern, instead in TOLD.items():
        said = re.sub(pattern, instead, said, flags=re.DOTALL)
    if number := re.match(r"(?:\.(rows|outcomes))?\[(\d+)\]\.?", where):
        place = [*(place or [number[1] or "rows"]), int(number[2])]
        where = where[number.end() :]
    missing = re.fullmatch("Object missing required field `(.*)`", said, re.DOTALL)
    said = "is missing" if missing else said
    column = missing[1] if missing else where.lstrip(".").rstrip("`")
    if other and len(place) > 1:
        return Invalid(422, others[other], [*place, other])
    status = 413 if re.match("Expected `array` of length <=", said) else 422
    return Invalid(status, said, [*place, *([names[column]] if column in names else [])])
